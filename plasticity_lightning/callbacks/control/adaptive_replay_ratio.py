"""Adaptive replay ratio: learn little from each step while a network regains plasticity, much once it has.

The callback reads a measure that is published in `trainer.callback_metrics`, the critic's fraction of active units by
`PlasticityMonitor` in the paper, and sets `replay_ratio` of whatever has one. The rule is `control.replay_ratio`.
Source: Ma et al. 2024, "Revisiting Plasticity in Visual Reinforcement Learning".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.control.replay_ratio import (
    AverageOver,
    Decision,
    FirstReference,
    PresetName,
    RatioState,
    make_rule,
)
from plasticity_lightning.errors import nearest
from plasticity_lightning.protocols import CoverageRow, HasReplayRatio
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.exact_loops import inside_epoch, left
from plasticity_lightning.runtime.updates import UpdateCount, begins_anew, progress_of

__all__ = ["AdaptiveReplayRatio", "RatioUnit"]

RatioUnit = Literal["episode", "frame", "step", "update", "batch", "epoch"]
_PATIENCE = 1000  # batches with updates and without the metric before the user is told
_ROWS = 2048  # of the chart


class AdaptiveReplayRatio(Callback):
    """Moves `replay_ratio` along a ladder when a published measure says so.

    A reading is taken after each batch in which the module made updates, weighted by their number. Let the measure be
    published as often (`PlasticityMonitor(every=1)`); between two publications the last one is read again. Options that
    are None are the preset's, see `control.replay_ratio.RatioRule`.

    Args:
        monitor: name of the measure in `trainer.callback_metrics`; list who publishes it before this callback.
        preset: "paper": the rule as the paper states it, which compares the means of whole windows. "published_code":
            its quirks too: only the last episode of a window counts, and the first check compares with the first
            reading of all.
        ladder: replay ratios, rising; training starts on the first.
        check_every: units between checks.
        unit: episode, frame, step, update (the module's `progress()`), batch or epoch (the Trainer's).
        raise_when: condition for one rung up, e.g. "change <= 0.001"; quantities are value, change, rise and fall.
        lower_when: condition for one rung down.
        patience: consecutive checks at which a condition must hold.
        hysteresis: by how much more a condition must hold that takes back the last move.
        cooldown: checks after a move at which nothing moves.
        average_over: "window" or "last".
        first_reference: "first_window" or "first_reading".
        returns: metric that the chart shows as return.
        name: tells several of one Trainer apart.

    Logs:
        `adaptive_replay_ratio/ratio`, `.../measure` (mean of the last window); in TensorBoard each check with its
        reason as text, and the figure `adaptive_replay_ratio/chart` of ratio, measure and return at each move and at
        the end.

    Raises:
        ValueError: if an option is unknown or out of range.
        MisconfigurationException: at setup, if neither module nor data module has a `replay_ratio`, or nothing counts
            the unit.

    Source: Ma et al. 2024 and its published code.
    """

    def __init__(
        self,
        monitor: str = "plasticity/fau/critic",
        preset: PresetName = "paper",
        ladder: Sequence[float] | None = None,
        check_every: int | None = None,
        unit: RatioUnit = "episode",
        raise_when: str | None = None,
        lower_when: str | None = None,
        patience: int | None = None,
        hysteresis: float | None = None,
        cooldown: int | None = None,
        average_over: AverageOver | None = None,
        first_reference: FirstReference | None = None,
        returns: str = "train/return",
        name: str | None = None,
    ) -> None:
        if unit not in get_args(RatioUnit):
            raise ValueError(f"unit={unit!r} must be one of {', '.join(get_args(RatioUnit))}")
        self.rule = make_rule(
            preset,
            ladder=ladder,
            check_every=check_every,
            raise_when=raise_when,
            lower_when=lower_when,
            patience=patience,
            hysteresis=hysteresis,
            cooldown=cooldown,
            average_over=average_over,
            first_reference=first_reference,
        )
        self.monitor, self.unit, self.returns, self.name = monitor, unit, returns, name
        self.state = RatioState(self.rule)
        self.history: list[tuple[int, float, float, float]] = []  # moment, ratio, measure, return at each check
        self._unread: list[tuple[Tensor, int]] = []  # readings stay on their device until a unit is over
        self._count = UpdateCount()
        self._updates = 0
        self._missed = 0

    @property
    def state_key(self) -> str:
        """One key for each name."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what has a replay ratio."""
        if stage != "fit":
            return
        self._target = self._find_target(trainer, pl_module)
        if self.unit not in ("batch", "epoch", "update") and progress_of(pl_module, self.unit) is None:
            raise MisconfigurationException(
                f"AdaptiveReplayRatio: unit={self.unit!r} needs {type(pl_module).__name__}.progress() to return a dict "
                f"with the key {self.unit!r}; add it or choose batch or epoch"
            )
        announce_coverage(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the ratio of the present rung; a fit that begins anew starts on the first."""
        self._count.start(trainer)
        if begins_anew(trainer):
            self.state, self.history, self._updates = RatioState(self.rule), [], 0
        self._target.replay_ratio = self.state.replay_ratio

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Take a reading if the batch made updates; decide if a check is due."""
        updates = self._count.read(trainer, pl_module)
        if updates > self._updates:
            self._note(trainer, updates - self._updates)
        self._updates = updates
        if self.unit != "epoch":
            self._advance(trainer, pl_module, self._reading(trainer, pl_module))
        if logging_due(trainer):
            self._log(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide if a check is due by epochs, if that is what has ended."""
        if self.unit == "epoch" and not inside_epoch(trainer):
            self._advance(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the chart, unless the run is only left for a while."""
        if not left(trainer):
            self._draw(trainer, pl_module)

    def coverage(self, trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
        """The ratio that it sets, and what it reads; it watches nothing of the network itself."""
        title = type(self).__name__ + (f" {self.name}" if self.name else "")
        how = f"along {', '.join(f'{ratio:g}' for ratio in self.rule.ladder)} by {self.monitor}, every {self.rule.check_every} {self.unit}s"
        return [CoverageRow(title, f"{type(self._target).__name__}.replay_ratio", "set", how)]

    def state_dict(self) -> dict[str, Any]:
        """Rule's state, chart, and what has been read."""
        self._read()
        return {
            "state": self.state.state_dict(),
            "history": list(self.history),
            "updates": self._updates,
            "count": self._count.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        self.state.load_state_dict(state_dict["state"])
        self.history = [tuple(row) for row in state_dict["history"]]
        self._updates = state_dict["updates"]
        self._count.load_state_dict(state_dict["count"])

    def _find_target(self, trainer: Trainer, pl_module: LightningModule) -> HasReplayRatio:
        candidates = [pl_module, getattr(trainer, "datamodule", None)]
        for candidate in candidates:
            if isinstance(candidate, HasReplayRatio):
                return candidate
        names = " nor ".join(type(candidate).__name__ for candidate in candidates if candidate is not None)
        raise MisconfigurationException(
            f"AdaptiveReplayRatio: {names} has no attribute replay_ratio. Add one, a float that may be set, and read it "
            "at each step: make replay_ratio updates for a step on average, or passes over the recent data"
        )

    def _note(self, trainer: Trainer, updates: int) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None:
            self._missed = 0
            self._unread.append((value.detach(), updates))
            return
        self._missed += 1
        if self._missed == _PATIENCE:
            known = sorted(trainer.callback_metrics)
            rank_zero_warn(
                f"AdaptiveReplayRatio: monitor={self.monitor!r} was not published in {_PATIENCE} batches with updates"
                f"{nearest(self.monitor, known)}; there are {known}. List the PlasticityMonitor before this callback."
            )

    def _read(self) -> None:
        if self._unread:
            values = torch.stack([value.float().cpu() for value, _ in self._unread]).tolist()
            for value, (_, updates) in zip(values, self._unread, strict=True):
                self.state.read(value, updates)
            self._unread = []

    def _reading(self, trainer: Trainer, pl_module: LightningModule) -> int:
        if self.unit == "batch":
            return trainer.fit_loop.total_batch_idx + 1
        if self.unit == "update":
            return self._updates
        return progress_of(pl_module, self.unit) or 0

    def _advance(self, trainer: Trainer, pl_module: LightningModule, units: int) -> None:
        over = units != self.state.units
        if trainer.world_size > 1:  # episodes end at different steps on different ranks: rank 0 counts
            over = trainer.strategy.reduce_boolean_decision(over and trainer.is_global_zero, all=False)
        if not over:
            return
        self._read()
        decision = self.state.unit_over(units)
        if trainer.world_size > 1:
            decision, state = trainer.strategy.broadcast((decision, self.state.state_dict()))
            self.state.load_state_dict(state)
        if decision is not None:
            self._act(trainer, pl_module, Decision(*decision))

    def _act(self, trainer: Trainer, pl_module: LightningModule, decision: Decision) -> None:
        self._target.replay_ratio = decision.replay_ratio
        moment = self._moment(trainer, pl_module)
        score = float(trainer.callback_metrics.get(self.returns, math.nan))
        self.history.append((moment, decision.replay_ratio, decision.measure, score))
        if len(self.history) > _ROWS:
            self.history = self.history[::2]
        text = f"replay ratio {decision.replay_ratio:g} ({self.monitor}: {decision.reason})"
        if decision.moved:
            rank_zero_info(f"AdaptiveReplayRatio: {text}")
        for logger in trainer.loggers if trainer.is_global_zero else ():
            # not through self.log: between two logging steps it would drop the check
            logger.log_metrics(self._values(), step=moment)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("adaptive_replay_ratio", text, moment)
        if decision.moved:
            self._draw(trainer, pl_module)

    def _values(self) -> dict[str, float]:
        values = {"adaptive_replay_ratio/ratio": self.state.replay_ratio}
        return values | ({"adaptive_replay_ratio/measure": self.history[-1][2]} if self.history else {})

    def _log(self, pl_module: LightningModule) -> None:
        pl_module.log_dict(self._values(), logger=False, batch_size=1)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not writers or not self.history or not trainer.is_global_zero:
            return
        from plasticity_lightning.viz.replay_ratio import replay_ratio_chart  # matplotlib is slow to import

        label = "batch" if progress_of(pl_module, "frame") is None else "frame"
        for logger in writers:
            figure = replay_ratio_chart(self.history, label, self.monitor)
            logger.experiment.add_figure("adaptive_replay_ratio/chart", figure, self._moment(trainer, pl_module))

    def _moment(self, trainer: Trainer, pl_module: LightningModule) -> int:
        frame = progress_of(pl_module, "frame")
        return trainer.fit_loop.total_batch_idx + 1 if frame is None else frame
