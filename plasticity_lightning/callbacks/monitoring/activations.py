"""Collects the activations of one due batch: hooks on the way in, metrics on the way, values at the end.

A layer is a nonlinearity together with the layer that ran before it, so that one `nn.ReLU` used after several
convolutions counts as several layers, while a shared encoder or a recurrent loop accumulates in one. The layer before
also tells where the units are: the last dimension after Linear and LayerNorm, channels after convolutions. What is
measured, and how it reduces, each measure's entry says. Nothing here waits for the device until `values` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from plasticity_lightning.callbacks.monitoring.call_frames import CallFrames
from plasticity_lightning.callbacks.monitoring.functional import FunctionalActivations
from plasticity_lightning.callbacks.monitoring.layers import Caller, Nonlinearity
from plasticity_lightning.callbacks.monitoring.spikes import SpikeRecorder, multi_step
from plasticity_lightning.measures.accumulate import accumulation_of
from plasticity_lightning.measures.activity import UnitSums, unit_sums
from plasticity_lightning.measures.metrics import Accumulated, MeanOf, ShareOf
from plasticity_lightning.measures.nonlinearities import NonlinearityKind, kind_named
from plasticity_lightning.measures.registry import Measure
from plasticity_lightning.runtime.overlap import counted, hold, release, unobserved

__all__ = ["ActivationCollector", "LayerValues"]


@dataclass
class LayerValues:
    """Values of one measure, layer by layer, and the size of each layer where a group weights by it."""

    values: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class _Layer:
    kind: NonlinearityKind
    n_units: int
    metrics: dict[Any, Metric]
    fired: bool = False


class ActivationCollector:
    """Installs hooks for the measures of a batch and turns what they saw into values.

    Args:
        options: for the measures that take them: `tau`.
        unit_dim: dimension of units of every layer; None decides by the layer before.
        sync: reduce over processes when values are read.

    Attributes:
        saw_functional: an activation function was called that is no module.
        ran: a linear, convolutional or normalisation layer ran in this batch.
        not_spiking: modules named as activations whose outputs, asked for spikes, are not 0 or 1.
    """

    def __init__(self, options: Mapping[str, Any], unit_dim: int | None = None, sync: bool = True) -> None:
        self.options, self.unit_dim, self.sync = dict(options), unit_dim, sync
        self.layers: dict[str, _Layer] = {}
        self.saw_functional = False
        self.not_spiking: list[str] = []
        self._frames = CallFrames()
        self._spikes = SpikeRecorder()
        self._names: dict[tuple[Any, ...], str] = {}
        self._handles: list[RemovableHandle] = []
        self._mode: FunctionalActivations | None = None
        self._due: list[Measure] = []
        self._needs: set[str] = set()
        self._all_calls = False
        self._inside = 0
        self._inputs: dict[int, Tensor] = {}
        self._rates: dict[str, Tensor] = {}

    @property
    def ran(self) -> bool:
        """Whether a layer that produces activations has run in this batch, where forward passes count."""
        return self._frames.ran

    def install(
        self,
        nonlinearities: Iterable[Nonlinearity],
        callers: Iterable[Caller],
        due: Iterable[Measure],
        functional: bool,
        all_calls: bool = False,
    ) -> None:
        """Begin to watch; the statistics of the previous due batch are forgotten.

        Args:
            nonlinearities: modules to hook.
            callers: all modules, as `find_callers` gives them.
            due: measures that the batch shall serve.
            functional: also see activation functions that are no modules.
            all_calls: count forward passes without gradient too (target networks, acting).
        """
        self.remove()
        self._due, self._all_calls, self._inside = list(due), all_calls, 0
        self._needs = {measure.needs for measure in self._due}
        for layer in self.layers.values():
            layer.fired = False
            for metric in layer.metrics.values():
                metric.reset()
        self._rates = {}
        self._spikes.reset()
        watched = set()
        for found in nonlinearities:
            watched.add(id(found.module))
            self._handles.append(found.module.register_forward_pre_hook(self._enter))
            self._handles.append(found.module.register_forward_hook(self._leave(found)))
        self._handles += self._frames.install([c for c in callers if id(c.module) not in watched], all_calls)
        if functional:
            self._mode = FunctionalActivations(self._function_called)
            self._mode.needs_input = "preactivations" in self._needs
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
            if layer.fired:
                for measure, value, size in self._read(layer):
                    entry = found.setdefault(measure, LayerValues())
                    entry.values[name], entry.sizes[name] = value, size
        spikes, self.not_spiking = self._spikes.values([m for m in self._due if m.needs == "spikes"])
        for measure, values in spikes.items():
            found[measure] = LayerValues(values, {k: torch.tensor(n) for k, n in self._spikes.units().items()})
        return found

    def unit_rates(self) -> dict[str, Tensor]:
        """Share of the samples at which each unit was active (a > 0) in the last due batch, [U] by layer."""
        rates = dict(self._rates)
        for name, layer in self.layers.items():
            metric = layer.metrics.get((unit_sums, None))
            if isinstance(metric, Accumulated) and metric.update_called:
                sums: UnitSums = metric.gathered()
                rates[name] = sums.active.double() / sums.samples
        return rates

    def state_dict(self) -> dict[str, Any]:
        """The layers by the names that they got in the order in which they ran, and the rates of the last due batch."""
        return {
            "names": [[*key, name] for key, name in self._names.items()],
            "layers": {name: [layer.kind.name, layer.n_units] for name, layer in self.layers.items()},
            "rates": self.unit_rates(),
            "saw_functional": self.saw_functional,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self._names = {(base, producer, units): name for base, producer, units, name in state["names"]}
        self.layers = {name: _Layer(kind_named(kind), units, {}) for name, (kind, units) in state["layers"].items()}
        self._rates, self.saw_functional = dict(state["rates"]), state["saw_functional"]

    def _read(self, layer: _Layer) -> list[tuple[str, Tensor, Tensor]]:
        read = []
        statistics: dict[Any, Any] = {}  # several measures may share what was gathered
        for measure in self._due:
            key = self._key(measure)
            metric = layer.metrics.get(key)
            if metric is None or not metric.update_called or not measure.applies(layer.kind):
                continue
            if key not in statistics:
                with metric.sync_context(should_sync=self.sync):
                    value = metric.gathered() if isinstance(metric, Accumulated) else metric.compute()
                    entries = metric.total.clone() if isinstance(metric, ShareOf) else torch.tensor(layer.n_units)
                    statistics[key] = value, entries
            value, size = statistics[key]
            accumulation = accumulation_of(measure.definition)
            if accumulation is not None:
                value = accumulation.finish(value, **self._options(measure, layer.kind))
            read.append((measure.name, value, size))
        return read

    def _options(self, measure: Measure, kind: NonlinearityKind) -> dict[str, Any]:
        given = {**self.options, "function": kind.name}
        return {name: given[name] for name in measure.options}

    @staticmethod
    def _key(measure: Measure) -> Any:
        """What keeps a metric of its own: the statistics that measures share, or the measure."""
        accumulation = accumulation_of(measure.definition)
        return measure.name if accumulation is None else (accumulation.update, accumulation.prepare)

    def _update(self, measure: Measure, layer: _Layer, arguments: tuple[Any, ...], done: set[Any]) -> None:
        key, function = self._key(measure), measure.definition
        if key in done:
            return
        done.add(key)
        device = arguments[0].device
        accumulation = accumulation_of(function)
        if accumulation is not None:
            arguments = (accumulation.update(*arguments),)
        if key not in layer.metrics:
            # values are read under one `sync_context`, which a synchronising compute would refuse
            metric: Metric
            if accumulation is not None:
                metric = Accumulated(accumulation, arguments[0], sync_on_compute=False)
            else:
                bound = partial(_scalar, measure, self._options(measure, layer.kind))
                metric = (ShareOf if measure.reduce == "share" else MeanOf)(bound, sync_on_compute=False)
            layer.metrics[key] = metric.to(device)
        layer.metrics[key].update(*arguments)

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside += 1
        if "preactivations" in self._needs and args and isinstance(args[0], Tensor):
            self._inputs[id(module)] = args[0].detach().clone()  # before an in-place function overwrites it

    def _leave(self, found: Nonlinearity) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._frames.passed(found)
            output = output[0] if isinstance(output, tuple) else output  # snnTorch: (spikes, membrane potential)
            if isinstance(output, Tensor):
                before = self._inputs.pop(id(module), None)
                self._see(found.name, found.kind, output, before, lambda z: module.forward(z.clone()), module)
            self._inside = max(0, self._inside - 1)  # last: a measure may call the function again

        return hook

    def _function_called(
        self, kind: NonlinearityKind, function: Callable[[Tensor], Tensor], before: Tensor, output: Tensor
    ) -> None:
        if self._inside == 0:  # the module that is running reports itself
            self.saw_functional = True
            owner = self._frames.owner
            self._see(f"{owner}.{kind.name}" if owner else kind.name, kind, output, before, function)

    def _see(
        self,
        base: str,
        kind: NonlinearityKind,
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
        kind: NonlinearityKind,
        a: Tensor,
        before: Tensor | None,
        function: Callable[[Tensor], Tensor],
        module: nn.Module | None,
    ) -> None:
        unit_dim = self.unit_dim or self._frames.unit_dim or (-1 if a.ndim == 3 else 1)
        steps = 1
        if module is not None and multi_step(module) and a.ndim > 2:
            steps = len(a)
            a = a.flatten(0, 1)  # time steps are samples
        unit_dim = 1 if a.ndim == 2 else unit_dim
        units_second = a.movedim(unit_dim, 1)
        n_units = units_second.shape[1]
        name = self._name(base, kind, n_units)
        layer = self.layers.get(name)
        if layer is None:
            layer = self.layers[name] = _Layer(kind, n_units, {})
        layer.fired = True
        done: set[Any] = set()
        for measure in self._due:
            if not measure.applies(kind):
                continue
            if measure.needs == "activations":
                self._update(measure, layer, (units_second,), done)
            elif measure.needs == "preactivations" and before is not None:
                if unit_dim == 1:
                    self._update(measure, layer, (before, function), done)
                else:

                    def moved(z: Tensor) -> Tensor:
                        return function(z.movedim(1, unit_dim)).movedim(unit_dim, 1)

                    self._update(measure, layer, (before.movedim(unit_dim, 1), moved), done)
            elif measure.needs == "spikes" and name not in done:
                done.add(name)
                self._spikes.add(name, a.unflatten(0, (steps, -1)).flatten(2), known=bool(kind.spikes))

    def _name(self, base: str, kind: NonlinearityKind, n_units: int) -> str:
        producer = self._frames.producer
        key = (base, producer if not kind.spikes else "", n_units)
        if key not in self._names:
            taken = set(self._names.values())
            near = producer.removeprefix(base.rpartition(".")[0] + ".")
            name = base if base not in taken else f"{base}.{near or n_units}"
            while name in taken:
                name += "_"
            self._names[key] = name
        return self._names[key]


def _scalar(measure: Measure, options: dict[str, Any], *arguments: Any) -> Tensor:
    values = measure.values(measure.definition(*arguments, **options))
    if values.keys() != {measure.name}:
        raise MisconfigurationException(
            f"measure {measure.name!r} gives {sorted(values)}; of activations, which are reduced over calls and processes, "
            "a measure gives one scalar"
        )
    return values[measure.name]
