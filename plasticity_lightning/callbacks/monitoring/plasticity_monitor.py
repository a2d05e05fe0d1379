"""How plastic is the network? Measured while it trains, on any LightningModule, without a change to it.

The monitor hooks the nonlinearities of the module, reads its weights and gradients, and publishes the measures of
`plasticity_lightning.measures` as `plasticity/<measure>/<group>`. Hooks exist only during the batches at which a
measure is due; at the others the callback compares two integers. Values are logged through the module, so that a
controller or an intervention listed after the monitor reads them from `trainer.callback_metrics` in the same batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.callbacks.monitoring.activations import ActivationCollector, LayerValues, applies
from plasticity_lightning.callbacks.monitoring.cadence import Cadence
from plasticity_lightning.callbacks.monitoring.layers import (
    find_fallback,
    find_groups,
    find_nonlinearities,
    find_parameter_layers,
    find_producers,
)
from plasticity_lightning.callbacks.monitoring.parameters import GradientMeter, UpdateMeter, WeightMeter
from plasticity_lightning.callbacks.monitoring.probe import Probe, ProbeLoss
from plasticity_lightning.callbacks.monitoring.publish import (
    History,
    add_chart_layout,
    add_heat_map,
    add_histograms,
    tagged,
)
from plasticity_lightning.measures.aggregate import NETWORK, tag
from plasticity_lightning.measures.registry import MEASURES, measure_named
from plasticity_lightning.runtime.exact_loops import left
from plasticity_lightning.runtime.overlap import EagerExecution, hold, release, suspended, unobserved

__all__ = ["DEFAULT_MEASURES", "PlasticityMonitor"]

# three views of the activity, one of the rank, one each of weights and gradients: each can mislead alone
DEFAULT_MEASURES = ("fau", "ever_active", "dormant", "srank", "weight_norm", "grad_norm")

_ELSEWHERE = {
    "branching_factor": "it needs the connections of a liquid: use LiquidMonitor",
    "separation_rank": "it needs items of known classes: call measures.separation_rank",
    "approximation_rank": "it needs noisy items: call measures.approximation_rank",
}


class PlasticityMonitor(Callback):
    """Measures plasticity during training and logs it.

    Args:
        measures: names from `measures.MEASURES`; None takes those of `DEFAULT_MEASURES` that the network admits.
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
        heatmap: measure shown as layers by time; None takes `fau`, or `dormant` where no layer admits it.
        figure_every: batches between two histograms and heat maps in TensorBoard; 0 draws none.
        name: tells several monitors of one Trainer apart.

    Logs:
        `plasticity/<measure>/<group>` (and layer); with `grad_direction` also `grad_sign_flips`, with `sharpness` also
        `sharpness_residual`. In TensorBoard histograms `plasticity/unit_activity/<group>`, the figure
        `plasticity/<heatmap>/layers` and one custom chart a group.

    Attributes:
        latest: tag -> the value last published, a tensor on the module's device.

    Raises:
        ValueError: for an argument out of range or an unknown measure.
        MisconfigurationException: at setup if a pattern or `network` matches nothing; at the first batch if a measure
            that was asked for applies to no layer.
    """

    def __init__(
        self,
        measures: Sequence[str] | None = None,
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
        self.measures = tuple(dict.fromkeys(DEFAULT_MEASURES if measures is None else measures))
        if isinstance(measures, str) or not self.measures:
            raise ValueError(f"measures={measures!r} must be a list of at least one of {sorted(MEASURES)}")
        for measure in self.measures:
            measure_named(measure)
            if measure in _ELSEWHERE:
                raise ValueError(f"measures: {measure!r} cannot be monitored, {_ELSEWHERE[measure]}")
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
        self._cadence = Cadence(self.measures, every)
        self._needs = {m: MEASURES[m].needs for m in self.measures}
        self._collector = ActivationCollector(tau, unit_dim, sync=on == "batch")
        self._probe = Probe(network, probe_size, loss, probe_steps)
        self._history = History()
        self._drawn = 0
        self._open = False
        self._see_functions = self.functional
        self._checked = False
        self._fallback = False
        self._shown_before: str | None = None
        self._eager: EagerExecution | None = None
        self._restored: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        """One key for each name."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find layers and groups; nothing is hooked yet."""
        if stage != "fit":
            return
        self._groups = find_groups(pl_module, self.groups)
        self._probe.check(pl_module)
        find_nonlinearities(pl_module, self.activations)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the layers as they are now (a transform may have changed them since `setup`) and the first weights."""
        self._nonlinearities = find_nonlinearities(pl_module, self.activations)
        self._producers = find_producers(pl_module)
        layers = find_parameter_layers(pl_module)
        self._weights, self._gradients, self._updates = (
            WeightMeter(layers, self.measures),
            GradientMeter(layers),
            UpdateMeter(layers),
        )
        # a module without trainable parameters learns without gradients: there every forward pass counts
        self._all_calls = not layers
        if self._restored:
            self._weights.initial = self._restored["initial"]
            self._weights.vectors = self._restored["vectors"]
            self._gradients.load_state_dict(self._restored["direction"])
            self._restored = {}
            if self._fallback:
                self._nonlinearities, self._checked = find_fallback(pl_module), True
        self._weights.start()
        add_chart_layout(trainer, list(self._groups), self.measures)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Install hooks if something is due."""
        if not self._cadence.update(trainer.fit_loop.total_batch_idx + 1):
            return
        self._close()
        self._open = True
        pending = self._cadence.pending
        with unobserved():
            self._values: dict[str, LayerValues] = self._weights.measure(pending)
        activities = self._activities(pending)
        if self.on == "batch" and activities:
            if "torch._dynamo" in sys.modules:
                # compiled code calls no hooks: this one batch runs eagerly; nothing is compiled anew before or after
                self._eager = EagerExecution()
                hold(self._eager)
            self._collector.install(
                self._nonlinearities, self._producers, activities, self._see_functions, self._all_calls
            )
        if self._wants_probe(pending) and not self._probe.ready:
            self._probe.record(pl_module, self._all_calls)
        if "update_ratio" in pending:
            self._updates.install(trainer.optimizers)

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

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on exactly."""
        started = hasattr(self, "_weights")
        return {
            "pending": self._cadence.state_dict(),
            "history": self._history.state_dict(),
            "drawn": self._drawn,
            "latest": {key: value.detach().cpu() for key, value in self.latest.items()},
            "probe": self._probe.state_dict(),
            "shown": self._shown(),
            "fallback": self._fallback,
            "initial": dict(self._weights.initial) if started else {},
            "vectors": {k: v.detach().cpu().clone() for k, v in self._weights.vectors.items()} if started else {},
            "direction": self._gradients.state_dict() if started else {},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take everything up again; what belongs to the layers waits for `on_train_start`."""
        self._cadence.load_state_dict(state_dict["pending"])
        self._history.load_state_dict(state_dict["history"])
        self._drawn = state_dict["drawn"]
        self.latest = dict(state_dict["latest"])
        self._probe.load_state_dict(state_dict["probe"])
        self._shown_before, self._fallback = state_dict["shown"], state_dict["fallback"]
        self._restored = {key: state_dict[key] for key in ("initial", "vectors", "direction")}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove every hook."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove every hook: Lightning calls no teardown after an exception."""
        self._close()

    def _activities(self, pending: set[str]) -> set[str]:
        return {m for m in pending if self._needs[m] in ("activations", "preactivations", "spikes")}

    def _wants_probe(self, pending: set[str]) -> bool:
        return any(self._needs[m] == "probe" for m in pending) or (
            self.on == "probe" and bool(self._activities(pending))
        )

    def _close(self) -> None:
        self._open = False
        self._collector.remove()
        self._probe.remove()
        if hasattr(self, "_updates"):
            self._updates.remove()
        if self._eager is not None:
            release(self._eager)
            self._eager = None

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        pending = self._cadence.pending
        served = {m for m in pending if self._needs[m] == "weights" and m != "update_ratio"}
        if not trainer.optimizers:
            served |= {m for m in pending if self._needs[m] == "gradients" or m == "update_ratio"}
        values = {**self._values, **self._gradients.values(), **self._updates.values()}
        if self._wants_probe(pending) and not self._probe.ready:
            self._probe.keep(batch, trainer.strategy.broadcast)
        activities = self._measure_activities(pl_module)
        if activities:
            served |= self._activities(pending)
        whole = {m for m in pending if self._needs[m] == "probe"}
        scalars = self._probe.measure(pl_module, whole, trainer.optimizers) if whole and self._probe.ready else {}
        served |= set(values) | set(scalars)
        if "grad_direction" in served and self._cadence.every["grad_direction"] > 1:
            self._gradients.forget_previous()
        pending -= served
        tags = {tag(measure, NETWORK): value.float() for measure, value in scalars.items()}
        for measure, found in {**values, **activities}.items():
            tags |= tagged(measure, found, self._groups, self.per_layer)
        self._publish(trainer, pl_module, tags, activities)

    def _measure_activities(self, pl_module: pl.LightningModule) -> dict[str, LayerValues]:
        due = self._activities(self._cadence.pending)
        if not due or (self.on == "probe" and not self._probe.ready):
            return {}
        collector = self._collector
        if self.on == "probe":
            self._probe.activities(
                pl_module, self._nonlinearities, self._producers, due, collector, self._see_functions
            )
        if collector.fired:
            if not self._checked:
                self._check_applicable()
            return collector.values()
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
        kinds = sorted({layer.kind for layer in self._collector.layers.values()})
        idle = [m for m in self._activities(set(self.measures)) if not any(applies(m, kind) for kind in kinds)]
        if idle and self._strict:
            raise MisconfigurationException(
                f"measures {sorted(idle)} apply to none of the activations, which are {kinds}: `fau` and `ever_active` "
                "need ReLU-like functions (elsewhere use `dormant`), `saturated` bounded ones, spike measures spiking nodes"
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
        kinds = {layer.kind for layer in self._collector.layers.values()}
        admitted = [m for m in ("fau", "dormant") if m in self.measures and any(applies(m, kind) for kind in kinds)]
        return self.heatmap or next(iter(admitted), None if kinds else self._shown_before)

    def _draw(self, trainer: pl.Trainer, batch: int) -> None:
        shown = self._shown()
        if self.figure_every and shown is not None:
            add_heat_map(trainer, self._history, shown, batch)
