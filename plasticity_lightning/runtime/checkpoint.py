"""Checkpoints that are never half-written, for modules with and without gradients.

A checkpoint is written under a temporary name and renamed, so `last.ckpt` is always whole. It is due by batches, by seconds and at the end of
epochs; Lightning's own `ModelCheckpoint` counts optimizer steps, and so writes nothing for a module that has none.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.runtime.clock import Clock

__all__ = ["AtomicCheckpoint"]


class AtomicCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, and `best.ckpt` by a monitored metric, both written atomically.

    Args:
        dirpath: folder; None is `checkpoints` inside the run's log directory.
        every_n_batches: save after so many training batches; None does not.
        every_seconds: save after a training batch when so much time has passed; None does not.
        every_n_epochs: save at the end of so many epochs, at least 1.
        monitor: logged metric that `best.ckpt` follows; None keeps no best.
        mode: whether "max" or "min" of the metric is best.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        every_n_batches: int | None = None,
        every_seconds: float | None = 60.0,
        every_n_epochs: int = 1,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
    ) -> None:
        if every_seconds is not None and every_seconds <= 0:
            raise ValueError(f"every_seconds={every_seconds} must be positive, or null")
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r} must be 'max' or 'min'")
        self.dirpath, self.every_seconds, self.monitor, self.mode = dirpath, every_seconds, monitor, mode
        self._batches = Clock(every_n_batches, "batch") if every_n_batches is not None else None
        self._epochs = Clock(every_n_epochs, "epoch")
        self._saved_at = time.monotonic()
        self.best_score: float | None = None
        self._folder: Path | None = None

    @property
    def last_model_path(self) -> str:
        """Path of `last.ckpt`; empty before `setup`."""
        return "" if self._folder is None else str(self._folder / "last.ckpt")

    @property
    def best_model_path(self) -> str:
        """Path of `best.ckpt`; empty while there is none."""
        return "" if self._folder is None or self.best_score is None else str(self._folder / "best.ckpt")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settle the folder, the same on all ranks."""
        folder = self.dirpath or os.path.join(trainer.log_dir or trainer.default_root_dir, "checkpoints")
        self._folder = Path(trainer.strategy.broadcast(folder))
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if due by batches or by time; rank 0's watch counts."""
        due = self._batches is not None and self._batches.due(trainer, pl_module)
        if self.every_seconds is not None:
            late = time.monotonic() - self._saved_at >= self.every_seconds
            due = due or (trainer.strategy.broadcast(late) if trainer.world_size > 1 else late)
        if due:
            self._save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best."""
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            raise MisconfigurationException(f"monitor={self.monitor!r} was not logged; there are {sorted(trainer.callback_metrics)}")
        score = float(trainer.callback_metrics[self.monitor])
        better = self.best_score is None or (score > self.best_score if self.mode == "max" else score < self.best_score)
        if trainer.strategy.broadcast(better) if trainer.world_size > 1 else better:
            self.best_score = score
            self._save(trainer, "best.ckpt")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if due by epochs."""
        if self._epochs.due(trainer, pl_module):
            self._save(trainer, "last.ckpt")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state."""
        self._save(trainer, "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        """The best score and the clocks."""
        batches = None if self._batches is None else self._batches.state_dict()
        return {"best_score": self.best_score, "epochs": self._epochs.state_dict(), "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.best_score = state_dict["best_score"]
        self._epochs.load_state_dict(state_dict["epochs"])
        if self._batches is not None and state_dict["batches"] is not None:
            self._batches.load_state_dict(state_dict["batches"])

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        if self._folder is None or trainer.fast_dev_run:
            return
        temporary = self._folder / f".{name}.tmp"
        trainer.save_checkpoint(temporary)  # collective: every rank takes part, rank 0 writes
        if trainer.is_global_zero:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self._folder / name)
        self._saved_at = time.monotonic()
