"""A clock for schedules: due whenever its count crosses a multiple, never by testing for equality.

Counts jump: with several optimizers or updates a batch, `global_step` steps over multiples, and without optimizers it stays 0.
"""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl

__all__ = ["Clock", "ClockUnit"]

ClockUnit = Literal["batch", "update", "epoch", "frame"]


class Clock:
    """Due once whenever the count has passed a further multiple of `every`.

    Args:
        every: in units, at least 1.
        unit: "batch" counts training batches, "update" optimizer steps, "epoch" finished epochs, "frame" what the module's
            `progress()["frame"]` says.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(self, every: int, unit: ClockUnit = "batch") -> None:
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        if unit not in ("batch", "update", "epoch", "frame"):
            raise ValueError(f"unit={unit!r} must be 'batch', 'update', 'epoch' or 'frame'")
        self.every, self.unit, self.last = every, unit, 0

    def now(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> int:
        """The count."""
        if self.unit == "batch":
            return trainer.fit_loop.total_batch_idx + 1
        if self.unit == "update":
            return trainer.global_step
        if self.unit == "epoch":
            return trainer.current_epoch + 1
        if not hasattr(pl_module, "progress"):
            raise ValueError(f"unit='frame' needs {type(pl_module).__name__}.progress() to return a dict with 'frame'")
        return int(pl_module.progress()["frame"])

    def crossed(self, now: int) -> bool:
        """Whether a multiple lies in (last, now]; remembers `now`."""
        due = now // self.every > self.last // self.every
        self.last = now
        return due

    def due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Whether the clock is due now."""
        return self.crossed(self.now(trainer, pl_module))

    def state_dict(self) -> dict[str, Any]:
        """The last count seen."""
        return {"last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.last = int(state_dict["last"])
