"""How plastic is the network? Measured while it trains, on any LightningModule, without a change to it.

The monitor hooks the nonlinearities of the module, reads its weights and gradients, and publishes the measures of
`plasticity_lightning.measures` as `plasticity/<measure>/<group>`. Hooks exist only during the batches at which a
measure is due; at the others the callback compares two integers. Values are logged through the module, so that a
controller or an intervention listed after the monitor reads them from `trainer.callback_metrics` in the same batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.callbacks.monitoring.activations import ActivationCollector, LayerValues
from plasticity_lightning.callbacks.monitoring.cadence import Cadence
from plasticity_lightning.callbacks.monitoring.layers import (
    find_callers,
    find_fallback,
    find_groups,
    find_nonlinearities,
    find_parameter_layers,
)
from plasticity_lightning.callbacks.monitoring.parameters import GradientMeter, Memories, UpdateMeter, WeightMeter
from plasticity_lightning.callbacks.monitoring.probe import Probe, ProbeLoss
from plasticity_lightning.callbacks.monitoring.publish import (
    History,
    add_chart_layout,
    add_heat_map,
    add_histograms,
    tagged,
)
from plasticity_lightning.measures.aggregate import NETWORK, Combination, tag
from plasticity_lightning.measures.nonlinearities import Kind
from plasticity_lightning.measures.registry import ACTIVITY, MEASURES, Measure, chosen_measures
from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.exact_loops import left
from plasticity_lightning.runtime.overlap import EagerExecution, hold, release, suspended, unobserved
from plasticity_lightning.runtime.updates import begins_anew, optimizers_that_step

__all__ = ["DEFAULT_MEASURES", "PlasticityMonitor"]

# three views of the activity, one of the rank, one each of weights and gradients: each can mislead alone
DEFAULT_MEASURES = ("fau", "ever_active", "dormant", "srank", "weight_norm", "grad_norm")

# how a nonlinearity must be for a measure, in the words of an error
_NEEDED: dict[Kind, str] = {
    "any": "some activation",
    "signed": "one like ReLU (elsewhere use `dormant`)",
    "bounded": "a bounded one",
    "elementwise": "an elementwise one",
    "spiking": "spiking nodes",
}


class PlasticityMonitor(Callback):
    """Measures plasticity during training and logs it.

    Args:
        measures: names from `measures.MEASURES`, and of your own: a `measures.Measure`, a function of activations
            [B, units, ...], or the import path of one of them; None takes those of `DEFAULT_MEASURES` that the network
            admits.
        strict: refuse a measure that was asked for and applies to no layer (`fau` of a GELU network); False leaves it
            out.
        groups: group name -> shell pattern or patterns of module names (`critic: "critic.*"`); None takes the
            module's `plasticity_groups()` if it has them, else its children. The group `network` of all is added.
        every: batches between two measurements: one number for all, or measure -> number; default by cost: cheap
            100, moderate 1000, expensive 20000. Every measure is also taken at the first batch.
        on: measure activations on the live "batch", or on a "probe" batch: the first batch, on a copy in eval mode.
        probe_size: samples of the probe batch.
        network: dotted name of the network that is probed; None takes the one that the training step calls.
        loss: of the probed network's output, for `sharpness`, `hessian_rank` and `ntk_rank`: "cross_entropy" or
            "mse"; None decides by the targets.
        probe_steps: of `probe_loss`.
        activations: shell pattern or patterns of the modules whose outputs are activations, instead of the known
            nonlinearities.
        functional: also see `F.relu` and its like where they are called as functions.
        unit_dim: dimension of units of all activations; None decides by the layer before.
        tau: threshold of `dormant`.
        per_layer: also log `plasticity/<measure>/<group>/<layer>`.
        heatmap: measure shown as layers by time; None takes the first share of units, in the order of `MEASURES`, that
            some layer admits: `fau`, or `dormant` where no function is like ReLU.
        figure_every: batches between two histograms and heat maps in TensorBoard; 0 draws none.
        name: tells several monitors of one Trainer apart.

    Logs:
        `plasticity/<measure>/<group>` (and layer); with `grad_direction` also `grad_sign_flips`, with `sharpness` also
        `sharpness_residual`. In TensorBoard histograms `plasticity/unit_activity/<group>`, the figure
        `plasticity/<heatmap>/layers` and one custom chart a group.

    Attributes:
        entries: name -> `Measure` of what is measured.
        latest: tag -> the value last published, a tensor on the module's device.

    Raises:
        ValueError: for an argument out of range or an unknown measure.
        MisconfigurationException: at setup if a pattern or `network` matches nothing; at the first batch if a measure
            that was asked for applies to no layer.
    """

    def __init__(
        self,
        measures: Sequence[str | Measure | Callable[..., Any]] | None = None,
        strict: bool = True,
        groups: dict[str, str | list[str]] | None = None,
        every: int | dict[str, int] | None = None,
        on: Literal["batch", "probe"] = "batch",
        probe_size: int = 64,
        network: str | None = None,
        loss: ProbeLoss | None = None,
        probe_steps: int = 100,
        activations: str | list[str] | None = None,
        functional: bool = True,
        unit_dim: int | None = None,
        tau: float = 0.025,
        per_layer: bool = False,
        heatmap: str | None = None,
        figure_every: int = 2000,
        name: str | None = None,
    ) -> None:
        if isinstance(measures, str) or (measures is not None and not measures):
            raise ValueError(f"measures={measures!r} must be a list of at least one of {sorted(MEASURES)}")
        self.entries = chosen_measures(DEFAULT_MEASURES if measures is None else measures)
        self.measures = tuple(self.entries)
        for measure in self.entries.values():
            if measure.elsewhere:
                raise ValueError(f"measures: {measure.name!r} cannot be monitored, {measure.elsewhere}")
        if on not in ("batch", "probe"):
            raise ValueError(f"on={on!r} must be 'batch' or 'probe'")
        if loss is not None and loss not in get_args(ProbeLoss):
            raise ValueError(f"loss={loss!r} must be one of {', '.join(get_args(ProbeLoss))}")
        for argument, value, low in (
            ("probe_size", probe_size, 1),
            ("probe_steps", probe_steps, 1),
            ("tau", tau, 0),
            ("figure_every", figure_every, 0),
        ):
            if value < low:
                raise ValueError(f"{argument}={value} must be at least {low}")
        if unit_dim == 0:
            raise ValueError("unit_dim=0 is the batch; give 1 (channels) or -1 (last), or None")
        if heatmap is not None and heatmap not in self.measures:
            raise ValueError(f"heatmap={heatmap!r} must be one of the measures {list(self.measures)}")
        self.groups, self.on, self.per_layer, self.figure_every = groups, on, per_layer, figure_every
        self.activations = [activations] if isinstance(activations, str) else activations
        self.functional = functional and activations is None
        self.heatmap, self.name = heatmap, name
        self.latest: dict[str, Tensor] = {}
        self._strict = strict and measures is not None
        self._cadence = Cadence(self.entries, every)
        self._open = False
        self._eager: EagerExecution | None = None
        self._restored: dict[str, Any] = {}
        self._new_collector = partial(ActivationCollector, {"tau": tau}, unit_dim, sync=on == "batch")
        self._new_probe = partial(Probe, network, probe_size, loss, probe_steps)
        self._weights: WeightMeter | None = None
        self._shown_before: str | None = None
        self._see_functions: bool
        self._checked: bool
        self._forget()

    @property
    def state_key(self) -> str:
        """One key for each name."""
        return self._generate_state_key(name=self.name)

    @property
    def watching(self) -> bool:
        """Whether something is measured in this batch, see `protocols.WatchesUpdates`."""
        return self._open

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find layers and groups; nothing is hooked yet."""
        if stage != "fit":
            return
        announce_coverage(trainer)
        self._groups = find_groups(pl_module, self.groups, self.activations)
        self._probe.check(pl_module)
        find_nonlinearities(pl_module, self.activations)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the layers as they are now (a transform may have changed them since `setup`) and the first weights."""
        if begins_anew(trainer) and not self._restored:
            self._cadence.reset()
            self._forget()
        self._nonlinearities = find_nonlinearities(pl_module, self.activations)
        self._callers = find_callers(pl_module)
        layers, entries = find_parameter_layers(pl_module), self.entries.values()
        # a module without trainable parameters learns without gradients: there every forward pass counts
        self._all_calls = not layers
        initial = {} if self._weights is None else self._weights.initial  # of a fit that this one continues
        if self._restored:
            initial = self._restored["initial"]
            self._memories.load_state_dict(self._restored["memories"], entries)
            self._restored = {}
            if self._fallback:
                self._nonlinearities, self._checked = find_fallback(pl_module), True
        self._weights = WeightMeter(layers, entries, self._memories)
        self._gradients = GradientMeter(layers, entries, self._memories)
        self._updates = UpdateMeter(layers, entries)
        self._weights.initial = initial
        self._weights.start()
        add_chart_layout(trainer, list(self._groups), self.entries)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Install hooks if something is due."""
        if not self._cadence.update(trainer.fit_loop.total_batch_idx + 1):
            return
        self._close()
        self._open = True
        pending = self._cadence.pending
        assert self._weights is not None
        with unobserved():
            self._values: dict[str, LayerValues] = self._weights.measure(pending)
        activities = self._of(pending, *ACTIVITY)
        if self.on == "batch" and activities:
            if "torch._dynamo" in sys.modules:
                # compiled code calls no hooks: this one batch runs eagerly; nothing is compiled anew before or after
                self._eager = EagerExecution()
                hold(self._eager)
            self._collector.install(
                self._nonlinearities, self._callers, activities, self._see_functions, self._all_calls
            )
        if self._wants_probe(pending) and not self._probe.ready:
            self._probe.record(pl_module, self._all_calls)
        self._updates.install(trainer.optimizers, pending)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the accumulated, unscaled gradients."""
        if self._open:
            with unobserved():
                self._gradients.measure(optimizer, self._cadence.pending)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Publish what the batch served; the rest stays pending."""
        if self._open:
            self._close()
            with suspended():  # whoever else watches the batch must not take the measuring for a part of it
                self._finish(trainer, pl_module, batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave no hook behind for validation if the last batch was skipped."""
        self._close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the final heat map, unless the run is only left for a while."""
        if not left(trainer):
            self._draw(trainer, trainer.fit_loop.total_batch_idx + 1)

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """Activations that are watched and by which measures, matrices, and what neither is."""
        title = type(self).__name__ + (f" {self.name}" if self.name else "")
        activities = self._of(set(self.measures), *ACTIVITY)
        seen = {name: layer.kind for name, layer in self._collector.layers.items()}
        known = {found.name: found.kind for found in self._nonlinearities}
        rows = []
        for name, kind in {**known, **seen}.items() if activities else ():
            applied = ", ".join(measure.name for measure in activities if measure.applies(kind))
            if seen and name not in seen:
                rows.append(
                    CoverageRow(title, name, "left out", f"{kind.name}: it has not run in a training step so far")
                )
            elif applied:
                rows.append(CoverageRow(title, name, "watched", f"{kind.name}: {applied}"))
            else:
                rows.append(CoverageRow(title, name, "left out", f"{kind.name}: none of the measures means something"))
        held = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
        for needs, what in (("weights", "matrix"), ("gradients", "gradients")):
            chosen = ", ".join(measure.name for measure in self._of(set(self.measures), needs))
            for layer in find_parameter_layers(pl_module) if chosen else ():
                trained = any(id(p) in held for p in layer.parameters.values())
                if needs == "gradients":
                    reason = chosen if trained else "no optimiser holds its parameters"
                    rows.append(CoverageRow(title, layer.name, what if trained else "left out", reason))
                rows += [CoverageRow(title, n, what, chosen) for n in layer.matrices if needs == "weights"]
        probe = ", ".join(measure.name for measure in self._of(set(self.measures), "probe"))
        if probe:
            network = self._probe.name or self._probe.network or type(pl_module).__name__
            rows.append(CoverageRow(title, network, "probed", probe))
        return rows or [
            CoverageRow(title, type(pl_module).__name__, "left out", "it has nothing that these measures measure")
        ]

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on exactly."""
        return {
            "pending": self._cadence.state_dict(),
            "history": self._history.state_dict(),
            "drawn": self._drawn,
            "latest": {key: value.detach().cpu() for key, value in self.latest.items()},
            "probe": self._probe.state_dict(),
            "shown": self._shown(),
            "fallback": self._fallback,
            # what the first batches have shown holds on, for these measures
            "first_batches": [self._checked, self._see_functions, list(self.measures)],
            "collector": self._collector.state_dict(),
            "initial": {} if self._weights is None else dict(self._weights.initial),
            "memories": self._memories.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take everything up again; what belongs to the layers waits for `on_train_start`."""
        self._forget()
        self._cadence.load_state_dict(state_dict["pending"])
        self._history.load_state_dict(state_dict["history"])
        self._drawn = state_dict["drawn"]
        self.latest = dict(state_dict["latest"])
        self._probe.load_state_dict(state_dict["probe"])
        self._shown_before, self._fallback = state_dict["shown"], state_dict["fallback"]
        checked, see_functions, measures = state_dict["first_batches"]
        if measures == list(self.measures):
            self._checked, self._see_functions = checked, see_functions
        self._collector.load_state_dict(state_dict["collector"])
        self._restored = {key: state_dict[key] for key in ("initial", "memories")}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove every hook."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove every hook: Lightning calls no teardown after an exception."""
        self._close()

    def _forget(self) -> None:
        """All that belongs to a run."""
        self.latest = {}
        self._collector, self._probe, self._memories = self._new_collector(), self._new_probe(), Memories()
        self._history, self._drawn = History(), 0
        self._see_functions, self._checked, self._fallback = self.functional, False, False
        self._shown_before = None
        self._weights = None

    def _of(self, pending: set[str], *needs: str) -> list[Measure]:
        return [measure for name, measure in self.entries.items() if name in pending and measure.needs in needs]

    def _wants_probe(self, pending: set[str]) -> bool:
        needs = ("probe", *ACTIVITY) if self.on == "probe" else ("probe",)
        return bool(self._of(pending, *needs))

    def _close(self) -> None:
        self._open = False
        self._collector.remove()
        self._probe.remove()
        if self._weights is not None:
            self._updates.remove()
        if self._eager is not None:
            release(self._eager)
            self._eager = None

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        pending = self._cadence.pending
        by_steps = {
            m.name for m in self._of(pending, "weights", "gradients") if m.needs == "gradients" or m.given == "steps"
        }
        served = {m.name for m in self._of(pending, "weights")} - by_steps
        if not optimizers_that_step(trainer):
            served |= by_steps
        values = {**self._values, **self._gradients.values(), **self._updates.values()}
        if self._wants_probe(pending) and not self._probe.ready:
            self._probe.keep(batch, trainer.strategy.broadcast)
        activities = self._measure_activities(pl_module)
        if activities:
            served |= {m.name for m in self._of(pending, *ACTIVITY)}
        whole = self._of(pending, "probe")
        scalars = self._probe.measure(pl_module, whole, trainer.optimizers) if whole and self._probe.ready else {}
        served |= set(values) | set(scalars)
        for measure in self._of(served, "gradients"):
            if self._cadence.every[measure.name] > 1:
                self._memories.pause(measure)
        tags = {tag(measure, NETWORK): value.float() for measure, value in scalars.items()}
        rules = self._rules(pending)
        for name, found in {**values, **activities}.items():
            tags |= tagged(name, found, rules.get(name, "mean"), self._groups, self.per_layer)
        pending -= served
        self._publish(trainer, pl_module, tags, activities)

    def _rules(self, names: set[str]) -> dict[str, Combination]:
        return {name: self.entries[name].combine or "mean" for name in names}

    def _measure_activities(self, pl_module: pl.LightningModule) -> dict[str, LayerValues]:
        due = self._of(self._cadence.pending, *ACTIVITY)
        if not due or (self.on == "probe" and not self._probe.ready):
            return {}
        collector = self._collector
        if self.on == "probe":
            self._probe.activities(pl_module, self._nonlinearities, self._callers, due, collector, self._see_functions)
        if collector.fired:
            if not self._checked:
                self._check_applicable()
            values = collector.values()
            if collector.not_spiking and self._strict:
                raise MisconfigurationException(
                    f"{[m.name for m in due if m.needs == 'spikes']} need spikes, 0 or 1; the outputs of "
                    f"{collector.not_spiking}, named by activations={self.activations}, are others"
                )
            return values
        if collector.ran and not self._checked:
            self._nonlinearities = find_fallback(pl_module)
            self._checked = self._fallback = True
            rank_zero_info(
                f"PlasticityMonitor sees no nonlinearity in {type(pl_module).__name__} and measures the outputs of its "
                f"{len(self._nonlinearities)} linear and convolutional layers instead, where `fau` and `ever_active` "
                "mean nothing; name the modules whose outputs are activations with activations="
            )
        return {}

    def _check_applicable(self) -> None:
        """After the first forward pass: what was asked for must apply to some layer, and the rest is known."""
        self._checked = True
        self._see_functions = self.functional and self._collector.saw_functional
        kinds = {layer.kind.name: layer.kind for layer in self._collector.layers.values()}
        idle = [
            measure
            for measure in self._of(set(self.measures), *ACTIVITY)
            if not any(measure.applies(kind) for kind in kinds.values())
        ]
        if idle and self._strict:
            needed = ", ".join(f"`{m.name}` needs {_NEEDED[m.on]}" for m in idle)
            raise MisconfigurationException(
                f"measures {sorted(m.name for m in idle)} apply to none of the activations, which are {sorted(kinds)}: "
                f"{needed}; see measures.nonlinearities"
            )

    def _publish(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        tags: dict[str, Tensor],
        activities: dict[str, LayerValues],
    ) -> None:
        for key, value in tags.items():
            pl_module.log(key, value, on_step=True, on_epoch=False, batch_size=1)
        self.latest |= tags
        batch = trainer.fit_loop.total_batch_idx + 1
        shown = self._shown()
        if shown in activities:
            self._history.add(batch, activities[shown].values)
        if self.figure_every and batch // self.figure_every > self._drawn // self.figure_every:
            self._drawn = batch
            add_histograms(trainer, self._collector.unit_rates(), self._groups, batch)
            self._draw(trainer, batch)

    def _shown(self) -> str | None:
        kinds = [layer.kind for layer in self._collector.layers.values()]
        order = [*MEASURES, *self.entries]
        shares = [m for m in self._of(set(self.measures), "activations") if m.share and any(map(m.applies, kinds))]
        unknown = None if kinds else self._shown_before
        return self.heatmap or min((m.name for m in shares), key=order.index, default=unknown)

    def _draw(self, trainer: pl.Trainer, batch: int) -> None:
        shown = self._shown()
        if self.figure_every and shown is not None:
            add_heat_map(trainer, self._history, shown, batch)
