"""Surgery on single units: new incoming weights, no outgoing ones, biases that take over what is lost.

ReDo and continual backpropagation decide which units go; what is then done to the layers around them is the same and
stands here, with the sums of activity by which both decide. Sources: Sokar et al. 2023, algorithm 1; Dohare et al.
2024, algorithm 1, and their code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plasticity_lightning.interventions.initialise import Initialiser, fresh_layer
from plasticity_lightning.interventions.unit_graph import UnitLayer, in_dim, out_dim

__all__ = [
    "ActivitySums",
    "Touched",
    "along",
    "compensate_biases",
    "incoming_parts",
    "outgoing_magnitude",
    "recycle_incoming",
    "renew_norms",
    "silence_outgoing",
]


class Touched(NamedTuple):
    """A parameter and where its value is new: a bool tensor that broadcasts to its shape."""

    parameter: Tensor
    entries: Tensor


class ActivitySums:
    """Sums of |a| per unit and the number of samples, for each layer, over any number of passes.

    `update` does not synchronise the device. Use it as `on_activation` of a `UnitTracer`.

    Args:
        signed: keep the sums of a, too.
    """

    def __init__(self, signed: bool = False) -> None:
        self.sums: dict[str, Tensor] = {}
        self.signed: dict[str, Tensor] | None = {} if signed else None
        self.samples: dict[str, int] = {}

    def update(self, layer: str, activation: Tensor) -> None:
        """Add activations [S, U] of a layer."""
        _add(self.sums, layer, activation.abs().sum(0, dtype=torch.float64))
        if self.signed is not None:
            _add(self.signed, layer, activation.sum(0, dtype=torch.float64))
        self.samples[layer] = self.samples.get(layer, 0) + activation.shape[0]

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, in plain types."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        self.sums, self.samples = dict(state["sums"]), dict(state["samples"])
        self.signed = None if state["signed"] is None else dict(state["signed"])


def incoming_parts(
    name: str, layer: UnitLayer, modules: Mapping[str, nn.Module], units: Tensor
) -> Iterator[tuple[str, Tensor, int]]:
    """The layers that make some units: (its name, bool mask over all its own units, dimension of its weight for them).

    Args:
        name: key of the units in the graph.
        layer: the entry.
        modules: layers by name.
        units: bool [U], True for those meant.
    """
    for part, first, given in layer.parts or [[name, 0, None]]:
        weight = modules[part].weight
        assert isinstance(weight, Tensor)
        dim = out_dim(modules[part]) if given is None else given
        yield part, nn.functional.pad(units, (first, weight.shape[dim] - first - layer.units)), dim


@torch.no_grad()
def recycle_incoming(
    producer: nn.Module,
    units: Tensor,
    seed: int,
    init: Initialiser | None = None,
    dim: int | None = None,
) -> list[Touched]:
    """Draw the incoming weights and bias of some units anew.

    Args:
        producer: layer with a `weight` and perhaps a `bias`, changed in place.
        units: bool [U], True for those to replace. Nothing is read from the device.
        seed: of the fresh layer from which their weights are taken.
        init: see `fresh_layer`.
        dim: dimension of the weight that counts the producer's units; None takes that of its class.

    Returns:
        The changed parameters and their changed entries; frozen parameters are left alone.
    """
    touched = []
    dim = out_dim(producer) if dim is None else dim
    new = dict(fresh_layer(producer, seed, init).named_parameters())
    for name, parameter in producer.named_parameters():
        touched += _replace(parameter, new[name], along(units, dim if parameter.ndim > 1 else 0, parameter.ndim))
    return touched


@torch.no_grad()
def renew_norms(norms: Mapping[str, nn.Module], units: Tensor, seed: int) -> list[Touched]:
    """Reset what normalisation layers keep of some units to what a fresh layer has (scale 1, shift 0, mean 0, variance 1).

    Args:
        norms: the layers between the units and their consumers, changed in place.
        units: bool [U].
        seed: of the fresh layer.
    """
    touched = []
    for norm in norms.values():
        fresh = fresh_layer(norm, seed)
        values = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
        for name, parameter in norm.named_parameters():
            touched += _replace(parameter, values[name], units)
        for name, buffer in norm.named_buffers():
            if buffer.shape == units.shape:
                buffer.copy_(torch.where(units, values[name].to(buffer.dtype), buffer))
    return touched


@torch.no_grad()
def silence_outgoing(layer: UnitLayer, consumers: Mapping[str, nn.Module], units: Tensor) -> list[Touched]:
    """Set the outgoing weights of some units to 0, in every layer that consumes them.

    Args:
        layer: says how many inputs of each consumer one unit fills.
        consumers: name -> consuming layer, changed in place; frozen weights are left alone.
        units: bool [U].
    """
    touched = []
    for name, consumer in consumers.items():
        weight = consumer.weight
        assert isinstance(weight, Tensor)
        if weight.requires_grad:
            entries = along(units.repeat_interleave(layer.consumers[name]), _reads(layer, name, consumer), weight.ndim)
            weight.masked_fill_(entries, 0)
            touched.append(Touched(weight, entries))
    return touched


@torch.no_grad()
def outgoing_magnitude(layer: UnitLayer, consumers: Mapping[str, nn.Module]) -> Tensor:
    """Sum of the absolute outgoing weights of each unit over all its consumers, [U]."""
    total: Tensor | float = 0.0
    for name, consumer in consumers.items():
        weight = consumer.weight
        assert isinstance(weight, Tensor)
        per_input = weight.abs().transpose(0, _reads(layer, name, consumer)).flatten(1).sum(1)
        total = total + per_input.unflatten(0, (layer.units, layer.consumers[name])).sum(1)
    assert isinstance(total, Tensor)
    return total


@torch.no_grad()
def compensate_biases(
    layer: UnitLayer, consumers: Mapping[str, nn.Module], units: Tensor, mean: Tensor
) -> list[Tensor]:
    """Add to the biases downstream what some units give on average, before their outgoing weights are set to 0.

    Exact in the mean if nothing but dropout or average pooling lies between the units and their consumers; at the padded
    border of a convolution it gives a little too much. Consumers without bias, or with a frozen one, get nothing.

    Args:
        layer: see `silence_outgoing`.
        consumers: name -> layer, changed in place.
        units: bool [U], those about to be replaced.
        mean: mean activation of all units, [U].

    Returns:
        The changed biases.
    """
    changed: list[Tensor] = []
    for name, consumer in consumers.items():
        weight, bias = consumer.weight, consumer.bias
        if not isinstance(bias, Tensor) or not bias.requires_grad:
            continue
        assert isinstance(weight, Tensor)
        given = torch.where(units, mean, 0.0).to(weight).repeat_interleave(layer.consumers[name])
        read = _reads(layer, name, consumer)
        lost = weight * along(given, read, weight.ndim)
        bias.add_(lost.transpose(0, 1 - read).flatten(1).sum(1))
        changed.append(bias)
    return changed


def along(units: Tensor, dim: int, ndim: int) -> Tensor:
    """View of [U] that broadcasts along dimension `dim` of a tensor of `ndim` dimensions."""
    return units.view([-1 if d == dim else 1 for d in range(ndim)])


def _reads(layer: UnitLayer, name: str, consumer: nn.Module) -> int:
    return layer.reads.get(name, in_dim(consumer))


def _replace(parameter: Tensor, new: Tensor, entries: Tensor) -> list[Touched]:
    if not parameter.requires_grad:
        return []
    parameter.copy_(torch.where(entries, new.to(parameter.dtype), parameter))
    return [Touched(parameter, entries)]


def _add(sums: dict[str, Tensor], layer: str, total: Tensor) -> None:
    sums[layer] = sums[layer] + total if layer in sums else total
