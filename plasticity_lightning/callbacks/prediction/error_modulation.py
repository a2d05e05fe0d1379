"""The third factor as a Callback.

When attention lets errors through, which part of them, how strongly, and during which trials.

It fills the slot `error_modulation` of a module (`protocols.HasErrorModulation`), whose local rule consults it at
every sample of a trial. What it does to the rule, and so every ablation of it, is an argument. Source: an independent
model, see docs/papers/prediction_object.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.protocols import CoverageRow, HasErrorModulation
from plasticity_lightning.readouts.modulation import ErrorKind, GateKind, Modulation
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.schedules import SCHEDULES, ScheduleName

__all__ = ["ErrorModulation"]


class ErrorModulation(Callback):
    """Gate, error and gain of a module's local rule.

    Args:
        gate: phase of the trial in which errors act; see `readouts.modulation.Modulation`.
        after_ms: how long the gate stays open after the outcome, at least 0.
        around_ms: half width of gate "around_outcome", at least 0.
        window_ms: in which outcomes are expected, positive.
        error: which part of the error passes.
        gain: factor on online errors, at least 0.
        offline_gain: factor on the errors of offline consolidation, at least 0.
        final_gain: value of both gains at the end of a `schedule`, at least 0; None keeps them.
        schedule: of the gains, by trials: from `gain` at trial `begin` to `final_gain` at trial `end`.
        begin: see `schedule`.
        end: see `schedule`; not before `begin`.
        off: pairs (first, last) of trials, from 0 and inclusive, in which no error passes at all.

    State: none: all is a function of the number of trials, which a resumed run goes on with.

    Logs:
        `error_modulation/gain`, 0 while it is off.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, if the module has no slot `error_modulation`.
    """

    def __init__(
        self,
        gate: GateKind = "cue_to_outcome",
        after_ms: float = 60.0,
        around_ms: float = 120.0,
        window_ms: float = 1000.0,
        error: ErrorKind = "signed",
        gain: float = 1.0,
        offline_gain: float = 1.0,
        final_gain: float | None = None,
        schedule: ScheduleName = "linear",
        begin: int = 0,
        end: int = 0,
        off: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.modulation = Modulation(gate, after_ms, around_ms, window_ms, error, gain, offline_gain)
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule!r} must be one of {', '.join(SCHEDULES)}")
        if final_gain is not None and (not final_gain >= 0 or not 0 <= begin <= end):
            raise ValueError(f"final_gain={final_gain} must be at least 0, and 0 <= begin={begin} <= end={end}")
        for pair in off:
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise ValueError(f"off={list(off)} must hold pairs (first, last) of trials with 0 <= first <= last")
        self.final_gain, self.schedule, self.begin, self.end = final_gain, schedule, begin, end
        self.off = [(int(first), int(last)) for first, last in off]

    def at(self, trial: int) -> Modulation:
        """What holds during a trial, counted from 0 over the whole run."""
        if any(first <= trial <= last for first, last in self.off):
            return replace(self.modulation, gain=0.0, offline_gain=0.0)
        if self.final_gain is None:
            return self.modulation
        shape = SCHEDULES[self.schedule]
        gains = [
            shape(trial, start, self.final_gain, self.begin, self.end)
            for start in (self.modulation.gain, self.modulation.offline_gain)
        ]
        return replace(self.modulation, gain=gains[0], offline_gain=gains[1])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a module without the slot, and fill it."""
        if not isinstance(pl_module, HasErrorModulation):
            raise MisconfigurationException(
                f"{type(pl_module).__name__} has no slot for ErrorModulation. Add the attribute `error_modulation = None`, and in its rule call "
                "`readouts.modulation.attention_gate` and `modulated_error` with what the callback puts there."
            )
        pl_module.error_modulation = self.modulation
        if stage == "fit":
            announce_coverage(trainer)

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """The slot that it fills, and with what."""
        held = self.modulation
        how = f"gate {held.gate}, {held.error} error, gain {held.gain:g} online and {held.offline_gain:g} offline"
        if self.final_gain is not None:
            how += f", {self.schedule} to {self.final_gain:g} in trials {self.begin} to {self.end}"
        if self.off:
            how += ", off in trials " + " and ".join(f"{first} to {last}" for first, last in self.off)
        return [CoverageRow("ErrorModulation", "error_modulation", "modulated", how)]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set what holds during this trial."""
        cast(HasErrorModulation, pl_module).error_modulation = self.at(trainer.fit_loop.total_batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the gain."""
        if logging_due(trainer):
            held = cast(HasErrorModulation, pl_module).error_modulation
            pl_module.log("error_modulation/gain", 0.0 if held is None else held.gain, batch_size=1)
