"""ReDo: recycle dormant neurons. A unit that hardly responds gets new incoming weights and no outgoing ones.

Every F steps the dormancy score s_i = E|a_i| / mean_k E|a_k| of each hidden unit is taken from a batch; the incoming
weights and bias of units with s_i <= tau are drawn anew from the initial distribution and their outgoing weights set
to 0. A unit that was exactly silent is replaced without changing the network's output. `recycle` is the surgery, of
use wherever units are replaced. Source: Sokar et al. 2023, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plasticity_lightning.interventions.initialise import Initialiser, fresh_layer
from plasticity_lightning.interventions.unit_graph import UnitLayer, in_dim, out_dim
from plasticity_lightning.measures.activity import dormant_scores

__all__ = ["ActivitySums", "Touched", "along", "dormant_units", "recycle_incoming", "silence_outgoing"]


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


def dormant_units(abs_sum: Tensor, tau: float) -> Tensor:
    """Which units are tau-dormant, bool [U], from the sums of |a| over a batch [U].

    In a layer of zeros all units are dormant; in a layer with a sum that is not finite, none is. Source: Sokar et al. 2023, definition 3.1.
    """
    return (dormant_scores(abs_sum) <= tau) & abs_sum.isfinite().all()


@torch.no_grad()
def recycle_incoming(
    producer: nn.Module,
    norms: Mapping[str, nn.Module],
    units: Tensor,
    seed: int,
    init: Initialiser | None = None,
) -> list[Touched]:
    """Draw the incoming weights and bias of some units anew, and reset what normalisation layers keep of them.

    Args:
        producer: Linear or convolution, whose weight is changed in place.
        norms: normalisation layers between the units and their consumers: affine and running statistics of the units
            become those of a fresh layer (scale 1, shift 0, mean 0, variance 1).
        units: bool [U], True for those to replace. Nothing is read from the device.
        seed: of the fresh layer from which their weights are taken.
        init: see `fresh_layer`.

    Returns:
        The changed parameters and their changed entries; frozen parameters are left alone.
    """
    touched = []
    new = dict(fresh_layer(producer, seed, init).named_parameters())
    for name, parameter in producer.named_parameters():
        dim = out_dim(producer) if parameter.ndim > 1 else 0
        touched += _replace(parameter, new[name], along(units, dim, parameter.ndim))
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
            entries = along(units.repeat_interleave(layer.consumers[name]), in_dim(consumer), weight.ndim)
            weight.masked_fill_(entries, 0)
            touched.append(Touched(weight, entries))
    return touched


def along(units: Tensor, dim: int, ndim: int) -> Tensor:
    """View of [U] that broadcasts along dimension `dim` of a tensor of `ndim` dimensions."""
    return units.view([-1 if d == dim else 1 for d in range(ndim)])


def _replace(parameter: Tensor, new: Tensor, entries: Tensor) -> list[Touched]:
    if not parameter.requires_grad:
        return []
    parameter.copy_(torch.where(entries, new.to(parameter.dtype), parameter))
    return [Touched(parameter, entries)]


def _add(sums: dict[str, Tensor], layer: str, total: Tensor) -> None:
    sums[layer] = sums[layer] + total if layer in sums else total
