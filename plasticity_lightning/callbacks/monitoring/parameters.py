"""Measures of weights, gradients and updates, one value for each layer that owns parameters.

Weights are read at the start of a due batch, so that all values of a batch belong to the same weights. Gradients are
read when the optimiser is about to step: after accumulation and unscaling, before clipping. The update is the
difference that one optimiser step makes. Several steps in a batch are averaged, several optimisers each bring the
layers that they hold.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.callbacks.monitoring.activations import LayerValues
from plasticity_lightning.callbacks.monitoring.layers import ParameterLayer
from plasticity_lightning.measures.gradients import DirectionState, grad_direction, grad_norm, grad_sparsity
from plasticity_lightning.measures.weights import (
    distance_from_init,
    spectral_norm,
    update_ratio,
    weight_norm,
    weight_rms,
)

__all__ = ["SIGN_FLIPS", "GradientMeter", "UpdateMeter", "WeightMeter"]

SIGN_FLIPS = "grad_sign_flips"  # published with grad_direction, which measures both


class WeightMeter:
    """Weight measures; keeps the first weights (on the CPU) and the vectors of the power iteration.

    Args:
        layers: whose matrices are measured.
        measures: chosen ones; others cost nothing.
    """

    def __init__(self, layers: Sequence[ParameterLayer], measures: Collection[str]) -> None:
        self.weights = {layer.name: layer.parameters[layer.weight] for layer in layers if layer.weight is not None}
        self.keep_initial = "distance_from_init" in measures
        self.initial: dict[str, Tensor] = {}
        self.vectors: dict[str, Tensor] = {}

    def start(self) -> None:
        """Keep the first weights of layers that have none yet (a resumed run has them from its checkpoint)."""
        if self.keep_initial:
            for name, weight in self.weights.items():
                if name not in self.initial or self.initial[name].shape != weight.shape:
                    self.initial[name] = weight.detach().cpu().clone()

    @torch.no_grad()
    def measure(self, due: Collection[str]) -> dict[str, LayerValues]:
        """Values of the due measures at the present weights."""
        found: dict[str, LayerValues] = {}
        for name, weight in self.weights.items():
            values: dict[str, Tensor] = {}
            if "weight_norm" in due:
                values["weight_norm"] = weight_norm(weight)
            if "weight_rms" in due:
                values["weight_rms"] = weight_rms(weight)
            if "distance_from_init" in due and name in self.initial:
                values["distance_from_init"] = distance_from_init(weight, self.initial[name])
            if "spectral_norm" in due:
                vector = self.vectors.get(name)
                fits = vector is not None and vector.numel() == weight[0].numel()
                start = vector.to(weight.device) if fits and vector is not None else None
                values["spectral_norm"], self.vectors[name] = spectral_norm(weight, start)
            for measure, value in values.items():
                found.setdefault(measure, LayerValues()).values[name] = value
        return found


class GradientMeter:
    """Gradient measures of the steps of one batch, averaged; the direction compares two steps that follow each other.

    Args:
        layers: whose gradients are measured.
    """

    def __init__(self, layers: Sequence[ParameterLayer]) -> None:
        self.layers = list(layers)
        self.direction: dict[str, DirectionState] = {}
        self._sums: dict[str, dict[str, tuple[Tensor, int]]] = {}

    @torch.no_grad()
    def measure(self, optimizer: torch.optim.Optimizer, due: Collection[str]) -> None:
        """Add the gradients that `optimizer` is about to use."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for layer in self.layers:
            mine = [p for p in layer.parameters.values() if id(p) in held]
            gradients = [p.grad for p in mine if p.grad is not None and not p.grad.is_sparse]
            if not gradients:
                continue
            if "grad_norm" in due:
                self._add("grad_norm", layer.name, grad_norm(gradients))
            if "grad_sparsity" in due:
                self._add("grad_sparsity", layer.name, grad_sparsity(gradients))
            if "grad_direction" in due and len(gradients) == len(mine):
                self._compare(layer.name, gradients)

    def values(self) -> dict[str, LayerValues]:
        """Means over the steps since the last call."""
        sizes = {layer.name: torch.tensor(sum(p.numel() for p in layer.parameters.values())) for layer in self.layers}
        found = {
            measure: LayerValues(
                {name: total / count for name, (total, count) in sums.items()}, {name: sizes[name] for name in sums}
            )
            for measure, sums in self._sums.items()
        }
        self._sums = {}
        return found

    def forget_previous(self) -> None:
        """Drop the gradients kept for the comparison: the next step will not follow them."""
        self.direction = {name: state._replace(previous=()) for name, state in self.direction.items()}

    def _compare(self, name: str, gradients: list[Tensor]) -> None:
        state = self.direction.get(name)
        shapes = [g.shape for g in gradients]
        if state is not None and [g.shape for g in state.previous] == shapes:
            self.direction[name] = state = grad_direction(gradients, state)
            self._add("grad_direction", name, state.cosine, replace=True)
            self._add(SIGN_FLIPS, name, state.flip_rate, replace=True)
        elif state is None:
            self.direction[name] = grad_direction(gradients)
        else:  # the first of a new pair of steps: no comparison with a gradient of long ago
            self.direction[name] = state._replace(previous=tuple(g.detach().clone() for g in gradients))

    def _add(self, measure: str, name: str, value: Tensor, replace: bool = False) -> None:
        sums = self._sums.setdefault(measure, {})
        total, count = sums.get(name, (torch.zeros_like(value), 0))
        sums[name] = (value, 1) if replace else (total + value, count + 1)

    def state_dict(self) -> dict[str, Any]:
        """The averages of the direction, and the gradients kept for the next comparison."""
        return {
            name: {
                "previous": [g.detach().cpu().clone() for g in state.previous],
                "averages": [t.detach().cpu().clone() for t in state[1:]],
            }
            for name, state in self.direction.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up again, on the device of the parameters."""
        devices = {layer.name: next(iter(layer.parameters.values())).device for layer in self.layers}
        self.direction = {
            name: DirectionState(
                tuple(g.to(devices[name]) for g in saved["previous"]), *(t.to(devices[name]) for t in saved["averages"])
            )
            for name, saved in state.items()
            if name in devices
        }


class UpdateMeter:
    """`update_ratio` by hooks before and after the optimisers' steps, present only while the measure is due.

    Args:
        layers: whose matrices are measured.
    """

    def __init__(self, layers: Sequence[ParameterLayer]) -> None:
        self.weights = {layer.name: layer.parameters[layer.weight] for layer in layers if layer.weight is not None}
        self._before: dict[int, dict[str, Tensor]] = {}
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._handles: list[RemovableHandle] = []

    def install(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Watch the steps of these optimisers."""
        self.remove()
        self._sums = {}
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._keep))
            self._handles.append(optimizer.register_step_post_hook(self._compare))

    def remove(self) -> None:
        """Stop watching; safe to call at any time."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._before.clear()

    def values(self) -> dict[str, LayerValues]:
        """Means over the steps seen; empty if there was none."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        return {"update_ratio": LayerValues(means)} if means else {}

    def _keep(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._before[id(optimizer)] = {n: w.detach().clone() for n, w in self.weights.items() if id(w) in held}

    def _compare(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            for name, before in self._before.pop(id(optimizer), {}).items():
                ratio = update_ratio(before, self.weights[name])
                total, count = self._sums.get(name, (torch.zeros_like(ratio), 0))
                self._sums[name] = (total + ratio, count + 1)
