"""ReDo: replace dormant units by new ones that do not disturb the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from plasticity_lightning.callbacks.interventions.triggered import TriggeredIntervention
from plasticity_lightning.callbacks.interventions.unit_replacement import UnitWatch, replace_units
from plasticity_lightning.interventions.initialise import Initialiser
from plasticity_lightning.interventions.optimizer_state import Moments, check_moments
from plasticity_lightning.interventions.redo import dormant_units
from plasticity_lightning.interventions.unit_surgery import ActivitySums
from plasticity_lightning.runtime.clock import Unit

__all__ = ["ReDo"]


class ReDo(TriggeredIntervention):
    """Every F updates: tau-dormant units get new incoming weights, outgoing weights 0, and no moments.

    When an event is due the next batch is watched (only that one: no hook runs otherwise) and the units are replaced
    after its step, judged by the activations of its forward passes with gradient. A convolution's unit is a channel.

    Args:
        tau: threshold of the dormancy score, at least 0.
        modules: shell patterns over the names of the layers (Linear, convolutions) whose units may be replaced.
        layers: explicit map of layers to the layers that consume their units, for networks that cannot be traced.
        moments: `zero` forgets the optimiser's moments of the touched weights, `keep` leaves them.
        init: function of a module, applied to the fresh layer from which weights are taken; an import path in YAML.
        every: act whenever this many units have passed; 1000 unless `at` or `trigger` is given.
        at: act at these readings.
        trigger: act when a logged measure crosses a threshold.
        unit: update, batch, epoch or frame.
        hysteresis: see `Trigger`.
        refractory: see `Trigger`.
        seed: of the new weights.

    Logs:
        `intervention/redo/units` (replaced), `.../fraction` (of the units looked at), `.../events`.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, if a name matches nothing.

    Source: Sokar et al. 2023.
    """

    name = "redo"

    def __init__(
        self,
        tau: float = 0.1,
        modules: str | list[str] = "*",
        layers: dict[str, list[str]] | None = None,
        moments: Moments = "zero",
        init: Initialiser | None = None,
        every: int | None = None,
        at: Sequence[int] | None = None,
        trigger: str | None = None,
        unit: Unit = "update",
        hysteresis: float = 0.0,
        refractory: int = 0,
        seed: int = 0,
    ) -> None:
        if every is None and at is None and trigger is None:
            every = 1000
        super().__init__(every, at, trigger, unit, hysteresis, refractory, seed)
        if tau < 0:
            raise ValueError(f"tau={tau} must be at least 0")
        check_moments(moments)
        self.tau, self.moments, self.init = tau, moments, init
        patterns = [modules] if isinstance(modules, str) else list(modules)
        self._key |= {"tau": tau, "modules": patterns, "layers": layers}
        self._watch = UnitWatch(patterns, layers, "ReDo", init)
        self._activity: ActivitySums | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the names."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._watch.check(pl_module)

    def ready(self) -> bool:
        """Whether a batch has been measured."""
        return self._activity is not None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watch the batch if an event is due, and the first of a run to know the layers."""
        if self._watch.peeks(pl_module):
            self._watch.start(pl_module, _ignore)
        elif self._why is not None:
            self._activity = self._activity or ActivitySums()
            self._watch.start(pl_module, self._activity.update)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Replace units if an event was due at the start of this batch."""
        self._watch.stop()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def act(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Replace the dormant units."""
        assert self._activity is not None
        sums, self._activity = self._activity.sums, None
        graph = self._watch.replaceable(trainer, pl_module)
        units = {}
        for name in graph:
            if name in sums:
                total = trainer.strategy.reduce(sums[name], reduce_op="sum")
                assert isinstance(total, torch.Tensor)
                units[name] = dormant_units(total, self.tau)
        seeds = {name: self.seed_for(name) for name in units}
        replace_units(trainer, pl_module, graph, units, seeds, self.moments, self.init)
        replaced = float(sum(mask.sum() for mask in units.values()))
        return {"units": replaced, "fraction": replaced / max(sum(mask.numel() for mask in units.values()), 1)}

    def forget(self) -> None:
        """Forget the layers of an earlier fit, too."""
        super().forget()
        self._watch.forget()
        self._activity = None

    def covers(self, trainer: Trainer, pl_module: LightningModule) -> list[tuple[str, str, str]]:
        """The layers whose units may be replaced, and the others with the reason."""
        return self._watch.covers(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Trigger, events, and the layers seen."""
        return {**super().state_dict(), "graph": self._watch.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        super().load_state_dict(state_dict)
        self._watch.load_state_dict(state_dict["graph"])

    def rank_state(self) -> dict[str, Any] | None:
        """The activity of an event that waits for the end of an accumulation; None if none does."""
        return None if self._activity is None else self._activity.state_dict()

    def load_rank_state(self, state: dict[str, Any] | None) -> None:
        """Add to it."""
        if state is not None:
            self._activity = ActivitySums()
            self._activity.load_state_dict(state)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch no more."""
        self._watch.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Watch no more: Lightning calls no teardown after an exception."""
        self._watch.stop()


def _ignore(layer: str, activation: torch.Tensor) -> None:
    """The first batch is watched for its layers only."""
