"""Collects the activations of one due batch: hooks on the way in, metrics on the way, values at the end.

A layer is a nonlinearity together with the layer that ran before it, so that one `nn.ReLU` used after several
convolutions counts as several layers, while a shared encoder or a recurrent loop accumulates in one. The layer before
also tells where the units are: the last dimension after Linear and LayerNorm, channels after convolutions.
Nothing here waits for the device until `values` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from plasticity_lightning.callbacks.monitoring.functional import FunctionalActivations
from plasticity_lightning.callbacks.monitoring.layers import (
    BOUNDED,
    SIGNED,
    Nonlinearity,
    producer_layout,
)
from plasticity_lightning.callbacks.monitoring.spikes import SPIKE_MEASURES, SpikeRecorder, multi_step
from plasticity_lightning.measures.activity import Saturating, activation_norm, zero_grad_units
from plasticity_lightning.measures.metrics import ActiveFraction, FeatureRank, MeanOf, Saturated, UnitActivity
from plasticity_lightning.runtime.overlap import counted, hold, release, unobserved

__all__ = ["ActivationCollector", "LayerValues", "applies"]

_RANKS = ("srank", "effective_rank", "stable_rank", "pca_rank")
_NOT_ELEMENTWISE = frozenset({"spiking", "custom", "linear", "rrelu"})  # another call would change or redraw something


def applies(measure: str, kind: str) -> bool:
    """Whether a measure of activations is defined for a nonlinearity of this kind."""
    if measure in ("fau", "ever_active"):
        return kind in SIGNED
    if measure == "saturated":
        return kind in BOUNDED
    if measure == "zero_grad_units":
        return kind not in _NOT_ELEMENTWISE
    return kind == "spiking" if measure in SPIKE_MEASURES else True


@dataclass
class LayerValues:
    """Values of one measure, layer by layer, and the size of each layer where a group weights by it."""

    values: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class _Layer:
    kind: str
    unit_dim: int
    n_units: int
    metrics: dict[str, Metric]
    fired: bool = False


class ActivationCollector:
    """Installs hooks for the measures of a batch and turns what they saw into values.

    Args:
        tau: threshold of `dormant`.
        unit_dim: dimension of units of every layer; None decides by the layer before.
        sync: reduce over processes when values are read.

    Attributes:
        saw_functional: an activation function was called that is no module.
        ran: a linear, convolutional or normalisation layer ran in this batch.
    """

    def __init__(self, tau: float = 0.025, unit_dim: int | None = None, sync: bool = True) -> None:
        self.tau, self.unit_dim, self.sync = tau, unit_dim, sync
        self.layers: dict[str, _Layer] = {}
        self.saw_functional = False
        self.ran = False
        self._spikes = SpikeRecorder()
        self._names: dict[tuple[Any, ...], str] = {}
        self._handles: list[RemovableHandle] = []
        self._mode: FunctionalActivations | None = None
        self._due: frozenset[str] = frozenset()
        self._all_calls = False
        self._producer: tuple[str, int] | None = None
        self._inside = 0
        self._inputs: dict[int, Tensor] = {}

    def install(
        self,
        nonlinearities: Iterable[Nonlinearity],
        producers: Iterable[tuple[str, nn.Module, int]],
        due: Iterable[str],
        functional: bool,
        all_calls: bool = False,
    ) -> None:
        """Begin to watch; the statistics of the previous due batch are forgotten.

        Args:
            nonlinearities: modules to hook.
            producers: the layers before them, as `find_producers` gives them.
            due: measures that the batch shall serve.
            functional: also see activation functions that are no modules.
            all_calls: count forward passes without gradient too (target networks, acting).
        """
        self.remove()
        self.ran = False
        self._due, self._all_calls, self._producer, self._inside = frozenset(due), all_calls, None, 0
        for layer in self.layers.values():
            layer.fired = False
            for metric in layer.metrics.values():
                metric.reset()
        self._spikes.reset()
        watched = set()
        for found in nonlinearities:
            watched.add(id(found.module))
            self._handles.append(found.module.register_forward_pre_hook(self._enter))
            self._handles.append(found.module.register_forward_hook(self._leave(found)))
        for name, module, unit_dim in producers:
            if id(module) not in watched:
                self._handles.append(module.register_forward_hook(self._produced(name, unit_dim)))
        if functional:
            self._mode = FunctionalActivations(self._function_called)
            self._mode.needs_input = "zero_grad_units" in self._due
            hold(self._mode)

    def remove(self) -> None:
        """Stop watching; safe to call at any time."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._inputs.clear()
        if self._mode is not None:
            release(self._mode)
            self._mode = None

    @property
    def fired(self) -> bool:
        """Whether any layer has been seen in this batch."""
        return any(layer.fired for layer in self.layers.values())

    def values(self) -> dict[str, LayerValues]:
        """Values of the due measures over the layers that fired, as tensors on their device."""
        found: dict[str, LayerValues] = {}
        for name, layer in self.layers.items():
            for key, metric in layer.metrics.items() if layer.fired else ():
                if metric.update_called:
                    with metric.sync_context(should_sync=self.sync):
                        for measure, value, size in self._read(key, layer, metric):
                            entry = found.setdefault(measure, LayerValues())
                            entry.values[name], entry.sizes[name] = value, size
        for measure, values in self._spikes.values(self._due).items():
            found[measure] = LayerValues(values, {k: torch.tensor(n) for k, n in self._spikes.units().items()})
        return found

    def unit_rates(self) -> dict[str, Tensor]:
        """Share of the samples at which each unit was active (a > 0) in the last due batch, [U] by layer."""
        rates = {}
        for name, layer in self.layers.items():
            metric = layer.metrics.get("units")
            if metric is not None and metric.update_called:
                rates[name] = cast(UnitActivity, metric).unit_rates()
        return rates

    def _read(self, key: str, layer: _Layer, metric: Metric) -> list[tuple[str, Tensor, Tensor]]:
        value = metric.compute()
        if isinstance(metric, FeatureRank):
            one = torch.ones(())
            return [(m, getattr(value, m), one) for m in _RANKS if m in self._due]
        if isinstance(metric, ActiveFraction):
            return [("fau", value, metric.total)]
        units = torch.tensor(layer.n_units)
        if isinstance(metric, UnitActivity):
            # all entries of the layer, so that the group's fau is the sum of active over the sum of units
            sizes = {"fau": metric.samples * layer.n_units}
            measures = [m for m in ("fau", "ever_active", "dormant") if m in self._due and applies(m, layer.kind)]
            return [(m, value[m], sizes.get(m, units)) for m in measures]
        return [(key, value, metric.total if isinstance(metric, Saturated) else units)]

    def _keys(self, kind: str) -> list[str]:
        due = {m for m in self._due if applies(m, kind)}
        keys: list[str] = [m for m in ("saturated", "activation_norm", "zero_grad_units") if m in due]
        if due & {"ever_active", "dormant"}:
            keys.append("units")
        elif "fau" in due:
            keys.append("fraction")  # a third of the cost of the statistics of each unit
        return keys + (["ranks"] if due & set(_RANKS) else [])

    def _metric(self, key: str, layer: _Layer, device: torch.device) -> Metric:
        if key not in layer.metrics:
            # values are read under one `sync_context`, which a synchronising compute would refuse
            options: dict[str, Any] = {"sync_on_compute": False}
            metric: Metric
            if key == "units":
                metric = UnitActivity(layer.n_units, layer.unit_dim, tau=self.tau, **options)
            elif key == "fraction":
                metric = ActiveFraction(**options)
            elif key == "ranks":
                metric = FeatureRank(layer.unit_dim, **options)
            elif key == "saturated":
                metric = Saturated(cast(Saturating, layer.kind), **options)
            else:
                metric = MeanOf(activation_norm if key == "activation_norm" else zero_grad_units, **options)
            layer.metrics[key] = metric.to(device)
        return layer.metrics[key]

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside += 1
        if "zero_grad_units" in self._due and args and isinstance(args[0], Tensor):
            self._inputs[id(module)] = args[0].detach().clone()  # before an in-place function overwrites it

    def _leave(self, found: Nonlinearity) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if found.kind == "linear":
                self._producer = (found.name, producer_layout(module) or 1)
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, Tensor):
                before = self._inputs.pop(id(module), None)
                self._see(found.name, found.kind, output, before, lambda z: module.forward(z.clone()), module)
            self._inside = max(0, self._inside - 1)  # last: a measure may call the function again

        return hook

    def _produced(self, name: str, unit_dim: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._producer = (name, unit_dim)
            self.ran = self.ran or self._all_calls or torch.is_grad_enabled()

        return hook

    def _function_called(self, kind: str, function: Callable[[Tensor], Tensor], before: Tensor, output: Tensor) -> None:
        if self._inside == 0:  # the module that is running reports itself
            self.saw_functional = True
            owner = f"{self._producer[0]}." if self._producer else ""
            self._see(f"{owner}{kind}", kind, output, before, function)

    def _see(
        self,
        base: str,
        kind: str,
        output: Tensor,
        before: Tensor | None,
        function: Callable[[Tensor], Tensor],
        module: nn.Module | None = None,
    ) -> None:
        learning = self._all_calls or torch.is_grad_enabled()
        if output.ndim < 2 or not output.numel() or not learning or not counted():
            return
        with unobserved():
            self._record(base, kind, output.detach(), before, function, module)

    def _record(
        self,
        base: str,
        kind: str,
        a: Tensor,
        before: Tensor | None,
        function: Callable[[Tensor], Tensor],
        module: nn.Module | None,
    ) -> None:
        unit_dim = self.unit_dim or (self._producer[1] if self._producer else -1 if a.ndim == 3 else 1)
        steps = 1
        if module is not None and multi_step(module) and a.ndim > 2:
            steps = len(a)
            a = a.flatten(0, 1)  # time steps are samples
        unit_dim = 1 if a.ndim == 2 else unit_dim
        n_units = a.shape[unit_dim]
        name = self._name(base, kind, n_units)
        layer = self.layers.get(name)
        if layer is None:
            layer = self.layers[name] = _Layer(kind, unit_dim, n_units, {})
        layer.fired = True
        for key in self._keys(kind):
            metric = self._metric(key, layer, a.device)
            if key == "activation_norm":
                metric.update(a, unit_dim)
            elif key != "zero_grad_units":
                metric.update(a)
            elif before is not None:
                metric.update(before, function, unit_dim=unit_dim)
        if kind == "spiking" and self._due & set(SPIKE_MEASURES):
            self._spikes.add(name, a.unflatten(0, (steps, -1)).flatten(2))

    def _name(self, base: str, kind: str, n_units: int) -> str:
        producer = self._producer[0] if self._producer else ""
        key = (base, producer if kind != "spiking" else "", n_units)
        if key not in self._names:
            taken = set(self._names.values())
            near = producer.removeprefix(base.rpartition(".")[0] + ".")
            name = base if base not in taken else f"{base}.{near or n_units}"
            while name in taken:
                name += "_"
            self._names[key] = name
        return self._names[key]
