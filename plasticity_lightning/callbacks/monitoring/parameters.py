"""Measures of weights, gradients and updates, one value for each layer that owns parameters.

Weights are read at the start of a due batch, so that all values of a batch belong to the same weights. Gradients are
read when the optimiser is about to step: after accumulation and unscaling, before clipping. The update is the
difference that one optimiser step makes. Several steps in a batch are averaged, several optimisers each bring the
layers that they hold. A measure with a memory gets back what it returned at its last call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.callbacks.monitoring.activations import LayerValues
from plasticity_lightning.callbacks.monitoring.layers import ParameterLayer
from plasticity_lightning.measures.registry import Measure

__all__ = ["GradientMeter", "Memories", "UpdateMeter", "WeightMeter"]


class Memories:
    """What measures with a memory keep of each layer, with the shapes of what they were given."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, tuple[Any, Any]]] = {}

    def measure(self, measure: Measure, layer: str, given: Any) -> dict[str, Tensor]:
        """Values of one measure of one layer, its memory carried on; empty where it has nothing to report yet.

        Args:
            measure: the entry.
            layer: its name.
            given: what the measure needs: a matrix, or a list of gradients.
        """
        function = measure.definition
        if measure.memory is None:
            return measure.values(function(given))
        shapes = [list(tensor.shape) for tensor in ([given] if isinstance(given, Tensor) else given)]
        kept, before = self._kept.setdefault(measure.name, {}).get(layer, (None, shapes))
        if kept is not None and before != shapes:  # another layer under an old name: only averages still hold
            kept = measure.memory.pause(kept) if measure.memory.pause is not None else None
        device = given.device if isinstance(given, Tensor) else given[0].device
        value, kept = (measure.memory.step or function)(given, _mapped(kept, lambda t: t.to(device)))
        self._kept[measure.name][layer] = kept, shapes
        return {} if value is None else measure.values(value)

    def pause(self, measure: Measure) -> None:
        """The next measurement will not follow the last one at once."""
        if measure.memory is not None and measure.memory.pause is not None:
            kept = self._kept.get(measure.name, {})
            self._kept[measure.name] = {name: (measure.memory.pause(k), shapes) for name, (k, shapes) in kept.items()}

    def state_dict(self) -> dict[str, Any]:
        """Measure -> layer -> memory and shapes, on the CPU."""
        return {
            measure: {name: [_mapped(k, _saved), shapes] for name, (k, shapes) in layers.items()}
            for measure, layers in self._kept.items()
        }

    def load_state_dict(self, state: dict[str, Any], measures: Iterable[Measure]) -> None:
        """Take up again what belongs to these measures."""
        names = {measure.name for measure in measures if measure.memory is not None}
        self._kept = {
            measure: {name: (k, shapes) for name, (k, shapes) in layers.items()}
            for measure, layers in state.items()
            if measure in names
        }


class WeightMeter:
    """Measures of matrices; keeps the first weights (on the CPU) where a measure compares with them.

    Args:
        layers: whose matrices are measured.
        measures: chosen ones; others cost nothing.
        memories: of the measures that have one.
    """

    def __init__(self, layers: Sequence[ParameterLayer], measures: Iterable[Measure], memories: Memories) -> None:
        self.weights = {name: weight for layer in layers for name, weight in layer.matrices.items()}
        self.measures = [m for m in measures if m.needs == "weights" and m.given != "steps"]
        self.initial: dict[str, Tensor] = {}
        self._memories = memories

    def start(self) -> None:
        """Keep the first weights of layers that have none yet (a resumed run has them from its checkpoint)."""
        if any(measure.given == "initial" for measure in self.measures):
            for name, weight in self.weights.items():
                if name not in self.initial or self.initial[name].shape != weight.shape:
                    self.initial[name] = weight.detach().cpu().clone()

    @torch.no_grad()
    def measure(self, due: set[str]) -> dict[str, LayerValues]:
        """Values of the due measures at the present weights."""
        found: dict[str, LayerValues] = {}
        for name, weight in self.weights.items():
            size = torch.tensor(weight.numel())
            for measure in self.measures:
                if measure.name not in due:
                    continue
                if measure.given != "initial":
                    values = self._memories.measure(measure, name, weight)
                elif name in self.initial:
                    values = measure.values(measure.definition(weight, self.initial[name]))
                else:
                    continue
                _put(found, name, values, size)
        return found


class GradientMeter:
    """Measures of the gradients of the steps of one batch: averaged, or the last of a measure with a memory.

    Args:
        layers: whose gradients are measured.
        measures: chosen ones.
        memories: of the measures that have one.
    """

    def __init__(self, layers: Sequence[ParameterLayer], measures: Iterable[Measure], memories: Memories) -> None:
        self.layers = list(layers)
        self.measures = [m for m in measures if m.needs == "gradients"]
        self._memories = memories
        self._sums: dict[str, dict[str, tuple[Tensor, int]]] = {}

    @torch.no_grad()
    def measure(self, optimizer: torch.optim.Optimizer, due: set[str]) -> None:
        """Add the gradients that `optimizer` is about to use."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for layer in self.layers:
            mine = [p for p in layer.parameters.values() if id(p) in held]
            gradients = [p.grad for p in mine if p.grad is not None and not p.grad.is_sparse]
            if not gradients:
                continue
            for measure in self.measures:
                # what is carried on compares the same parameters at every call
                if measure.name in due and (measure.memory is None or len(gradients) == len(mine)):
                    for name, value in self._memories.measure(measure, layer.name, gradients).items():
                        self._add(name, layer.name, value, replace=measure.memory is not None)

    def values(self) -> dict[str, LayerValues]:
        """Values of the steps since the last call."""
        sizes = {layer.name: torch.tensor(sum(p.numel() for p in layer.parameters.values())) for layer in self.layers}
        found = {
            measure: LayerValues(
                {name: total / count for name, (total, count) in sums.items()}, {name: sizes[name] for name in sums}
            )
            for measure, sums in self._sums.items()
        }
        self._sums = {}
        return found

    def _add(self, measure: str, name: str, value: Tensor, replace: bool) -> None:
        sums = self._sums.setdefault(measure, {})
        total, count = sums.get(name, (torch.zeros_like(value), 0))
        sums[name] = (value, 1) if replace else (total + value, count + 1)


class UpdateMeter:
    """Measures of optimiser steps, by hooks before and after them that are present only while a measure is due.

    Args:
        layers: whose matrices are measured.
        measures: chosen ones.
    """

    def __init__(self, layers: Sequence[ParameterLayer], measures: Iterable[Measure]) -> None:
        self.weights = {name: weight for layer in layers for name, weight in layer.matrices.items()}
        self.measures = [m for m in measures if m.needs == "weights" and m.given == "steps"]
        self._due: list[Measure] = []
        self._before: dict[int, dict[str, Tensor]] = {}
        self._sums: dict[str, dict[str, tuple[Tensor, int]]] = {}
        self._handles: list[RemovableHandle] = []

    def install(self, optimizers: Sequence[torch.optim.Optimizer], due: set[str]) -> None:
        """Watch the steps of these optimisers, if one of the measures is due."""
        self.remove()
        self._sums = {}
        self._due = [measure for measure in self.measures if measure.name in due]
        for optimizer in optimizers if self._due else ():
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
        sizes = {name: torch.tensor(weight.numel()) for name, weight in self.weights.items()}
        found = {
            measure: LayerValues(
                {name: total / count for name, (total, count) in sums.items()}, {name: sizes[name] for name in sums}
            )
            for measure, sums in self._sums.items()
        }
        self._sums = {}
        return found

    def _keep(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._before[id(optimizer)] = {n: w.detach().clone() for n, w in self.weights.items() if id(w) in held}

    def _compare(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            for layer, before in self._before.pop(id(optimizer), {}).items():
                for measure in self._due:
                    for name, value in measure.values(measure.definition(before, self.weights[layer])).items():
                        sums = self._sums.setdefault(name, {})
                        total, count = sums.get(layer, (torch.zeros_like(value), 0))
                        sums[layer] = (total + value, count + 1)


def _put(found: dict[str, LayerValues], layer: str, values: dict[str, Tensor], size: Tensor) -> None:
    for name, value in values.items():
        entry = found.setdefault(name, LayerValues())
        entry.values[layer], entry.sizes[layer] = value, size


def _mapped(kept: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same with plain tuples, which a checkpoint can hold, and `function` applied to each tensor."""
    if isinstance(kept, Tensor):
        return function(kept)
    return tuple(_mapped(part, function) for part in kept) if isinstance(kept, tuple | list) else kept


def _saved(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()
