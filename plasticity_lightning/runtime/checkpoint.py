"""Checkpoints that are complete or absent, for modules with and without optimizer steps.

A checkpoint is written under a temporary name, flushed to the disk and renamed over `last.ckpt`, so that killing the
process at any instant leaves the previous file. Triggers count batches, epochs and seconds, never `global_step`, which
stays 0 without an optimizer.
"""

import os
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.runtime.clock import Clock
from plasticity_lightning.runtime.graceful_stop import GracefulStop

__all__ = ["AtomicCheckpoint"]


class AtomicCheckpoint(Checkpoint):
    """Keeps `last.ckpt` and, with a monitor, `best.ckpt`.

    It also saves when training ends, when a signal stops it (mid-epoch) and when an exception ends it; the file of an
    exception is `exception.ckpt`, since the state may be half a batch ahead.

    Args:
        dirpath: folder; None takes `<log_dir>/checkpoints`.
        every_n_batches: save after so many batches, counted over all epochs; None does not.
        every_n_epochs: save after so many epochs; None does not.
        every_seconds: save after a batch when so many seconds have passed since the last save; None does not.
        monitor: logged metric that selects `best.ckpt`; None keeps no best.
        mode: "max" or "min" of the monitor is best.

    Raises:
        ValueError: if an interval is not positive or the mode is unknown.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        every_n_batches: int | None = None,
        every_n_epochs: int | None = 1,
        every_seconds: float | None = 60.0,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
    ) -> None:
        if every_seconds is not None and every_seconds <= 0:
            raise ValueError(f"every_seconds must be positive or None, got {every_seconds}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        for name, value in (("every_n_batches", every_n_batches), ("every_n_epochs", every_n_epochs)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")
        self.dirpath = dirpath
        self.every_seconds = every_seconds
        self.monitor = monitor
        self.mode = mode
        self.best_score: float | None = None
        self._batches = Clock(every_n_batches, "batch") if every_n_batches else None
        self._epochs = Clock(every_n_epochs, "epoch") if every_n_epochs else None
        self._folder: Path | None = None
        self._saved_at = 0.0
        self._frozen = False

    @property
    def last_model_path(self) -> str:
        """Path of `last.ckpt`, empty before `fit`."""
        return "" if self._folder is None else str(self._folder / "last.ckpt")

    @property
    def best_model_path(self) -> str:
        """Path of `best.ckpt`, empty if there is none."""
        return "" if self._folder is None or self.best_score is None else str(self._folder / "best.ckpt")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder over all ranks and remove leftovers of a killed save."""
        if stage != "fit" or trainer.fast_dev_run:
            return
        log_dir = trainer.log_dir  # a collective: all ranks ask, also one that knows its dirpath
        folder = self.dirpath or os.path.join(log_dir or trainer.default_root_dir, "checkpoints")
        self._folder = Path(trainer.strategy.broadcast(folder))
        if trainer.is_global_zero:
            for leftover in self._folder.glob(".*.ckpt.tmp"):
                leftover.unlink()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the time interval."""
        self._saved_at = time.monotonic()
        self._frozen = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save when a batch or time interval is over, or when a signal ends the run inside an epoch."""
        if _signalled(trainer) and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer, "last")
            self._frozen = True  # later hooks see an epoch that only seems finished
            return
        due = self._batches is not None and self._batches.due(trainer, pl_module)
        if self.every_seconds is not None:
            late = time.monotonic() - self._saved_at >= self.every_seconds
            due |= trainer.strategy.reduce_boolean_decision(late, all=False)
        if due:
            self._save(trainer, "last")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when an epoch interval is over; compare with the best."""
        due = self._epochs is not None and self._epochs.due(trainer, pl_module, epoch_end=True)
        if due or _signalled(trainer):
            self._save(trainer, "last")
            self._save_if_best(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        self._save(trainer, "last")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what there is beside the sound `last.ckpt`; one rank alone cannot, saving is a collective."""
        if trainer.training and trainer.world_size == 1:
            self._save(trainer, "exception")

    def state_dict(self) -> dict[str, Any]:
        """Best score and the clocks' readings."""
        return {
            "best_score": self.best_score,
            "batches": self._batches.last if self._batches else 0,
            "epochs": self._epochs.last if self._epochs else 0,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take best score and clocks up again."""
        self.best_score = state_dict["best_score"]
        if self._batches:
            self._batches.last = state_dict["batches"]
        if self._epochs:
            self._epochs.last = state_dict["epochs"]

    def _save_if_best(self, trainer: Trainer) -> None:
        if self.monitor is None or self._frozen:
            return
        if self.monitor not in trainer.callback_metrics:
            names = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise MisconfigurationException(f"monitor={self.monitor!r} is not logged; logged metrics: {names}")
        score = float(trainer.callback_metrics[self.monitor])
        better = self.best_score is None or (score > self.best_score if self.mode == "max" else score < self.best_score)
        if trainer.strategy.broadcast(better):
            self.best_score = score
            self._save(trainer, "best")

    def _save(self, trainer: Trainer, name: str) -> None:
        if self._folder is None or self._frozen:
            return
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # a collective: every rank takes part
        if trainer.is_global_zero:
            _write(state, self._folder / f"{name}.ckpt")
        trainer.strategy.barrier("AtomicCheckpoint")
        self._saved_at = time.monotonic()


def _signalled(trainer: Trainer) -> bool:
    return any(isinstance(c, GracefulStop) and c.stop_requested for c in trainer.callbacks)


def _write(state: dict[str, Any], path: Path) -> None:
    """Write under a temporary name, flush, rename, flush the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
