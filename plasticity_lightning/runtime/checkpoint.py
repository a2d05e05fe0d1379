"""Checkpoints that are complete or absent, written where the state of a run is whole, so that it goes on exactly.

`last.ckpt` is written when a batch, an epoch or the run is complete (`exact_loops.WholeMoments`), never from inside a hook: all other
callbacks, the module and the loggers have finished with the batch, and what goes on beyond it is part of the file (`unfinished`).
Killing the process at any instant leaves the previous file. Intervals count batches, epochs and seconds, never `global_step`,
which stays 0 without an optimizer.
"""

import os
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.atomic_file import FileWriteError, clear_stale
from plasticity_lightning.runtime.checkpoint_file import VerifyingIO, write_checkpoint
from plasticity_lightning.runtime.clock import Clock
from plasticity_lightning.runtime.divergence import DivergenceGuard
from plasticity_lightning.runtime.exact_loops import WholeMoments, install, left
from plasticity_lightning.runtime.override import override_optimizers
from plasticity_lightning.runtime.unfinished import load_unfinished, unfinished_state
from plasticity_lightning.runtime.updates import begins_anew

__all__ = ["AtomicCheckpoint"]


class AtomicCheckpoint(WholeMoments, Checkpoint):
    """Keeps `last.ckpt` and, with a monitor, `best.ckpt`.

    It also saves when training ends, when `GracefulStop` leaves it and when an exception ends it; the file of an exception is
    `exception.ckpt`, whose state may be half a batch ahead: the run goes on exactly from `last.ckpt`.
    Every checkpoint that it is asked to read, at any stage, is verified first.

    Args:
        dirpath: folder; None takes `<log_dir>/checkpoints`.
        every_n_batches: save after so many batches, counted over all epochs; None does not.
        every_n_epochs: save after so many epochs; None does not.
        every_seconds: save after a batch when so many seconds have passed since the last save; None does not.
        monitor: logged metric that selects `best.ckpt`; None keeps no best.
        mode: "max" or "min" of the monitor is best.
        override: on resume, take the hyperparameters of the new optimisers and schedules, and go on without a callback that the
            checkpoint calls indispensable, such as the scheduler of a sparse run. The run then does not go on exactly.

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
        override: bool = False,
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
        self.override = override
        self.best_score: float | None = None
        self._batches = Clock(every_n_batches, "batch") if every_n_batches else None
        self._epochs = Clock(every_n_epochs, "epoch") if every_n_epochs else None
        self._folder: Path | None = None
        self._saved_at = 0.0
        self._unfinished: list[dict[str, Any]] | None = None
        self._to_override: dict[str, Any] | None = None

    @property
    def last_model_path(self) -> str:
        """Path of `last.ckpt`, empty before `fit`."""
        return "" if self._folder is None else str(self._folder / "last.ckpt")

    @property
    def best_model_path(self) -> str:
        """Path of `best.ckpt`, empty if there is none."""
        return "" if self._folder is None or self.best_score is None else str(self._folder / "best.ckpt")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints verified; for `fit` agree on the folder over all ranks and remove what a killed save left."""
        reader = trainer.strategy.checkpoint_io
        if not isinstance(reader, VerifyingIO):
            reader = trainer.strategy.checkpoint_io = VerifyingIO(reader)
        reader.resuming = stage == "fit"  # Lightning calls no hook below for a checkpoint without callbacks
        if stage != "fit":
            return
        install(trainer)
        if trainer.fast_dev_run:
            return
        log_dir = trainer.log_dir  # a collective: all ranks ask, also one that knows its dirpath
        folder = self.dirpath or os.path.join(log_dir or trainer.default_root_dir, "checkpoints")
        self._folder = Path(trainer.strategy.broadcast(folder))
        if trainer.is_global_zero:
            clear_stale(self._folder)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """With `override`, give the states that are about to be restored the new hyperparameters."""
        if self._to_override is not None:
            override_optimizers(self._to_override, trainer)
            self._to_override = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the time interval; take up what was under way."""
        self._saved_at = time.monotonic()
        for clock in filter(None, (self._batches, self._epochs)):
            clock.start(trainer, pl_module)
        if begins_anew(trainer):  # a best score of an earlier fit is none of this one
            self.best_score = None
        states, self._unfinished = self._unfinished, None
        if states is not None and len(states) == trainer.world_size:
            load_unfinished(trainer, pl_module, states[trainer.global_rank])

    def on_batch_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when a batch or time interval is over, or when the run is left here."""
        due = self._batches is not None and self._batches.due(trainer, pl_module)
        if self.every_seconds is not None:
            late = time.monotonic() - self._saved_at >= self.every_seconds
            due |= trainer.strategy.reduce_boolean_decision(late, all=False)
        if due or left(trainer):
            self._save(trainer, "last")

    def on_epoch_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when an epoch interval is over, or when the run is left here; compare with the best."""
        if (self._epochs is not None and self._epochs.due(trainer, pl_module)) or left(trainer):
            self._save_if_best(trainer)
            self._save(trainer, "last")

    def on_run_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        self._save(trainer, "last")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what there is beside the sound `last.ckpt`; one rank alone cannot, saving is a collective."""
        if trainer.training and trainer.world_size == 1 and not isinstance(exception, UserError):
            self._save(trainer, "exception")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what is under way, one state per rank, and which callbacks the run cannot do without."""
        checkpoint["unfinished"] = [unfinished_state(trainer, pl_module)]
        if trainer.world_size > 1:
            mine, checkpoint["unfinished"] = checkpoint["unfinished"][0], [None] * trainer.world_size
            torch.distributed.all_gather_object(checkpoint["unfinished"], mine)
        checkpoint["indispensable"] = [c.state_key for c in trainer.callbacks if getattr(c, "indispensable", False)]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse what cannot go on, say what cannot go on exactly.

        Raises:
            MisconfigurationException: if a callback is missing that the run cannot do without.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        absent = set(checkpoint.get("indispensable", ())) - {c.state_key for c in trainer.callbacks}
        if absent and not self.override:
            raise MisconfigurationException(
                f"the checkpoint belongs to a run with {', '.join(sorted(absent))}, which is missing here: without it the run "
                "would lose what it holds (the zeros of a sparse network). Add it, or set override to go on without it"
            )
        if checkpoint.get("exception"):
            rank_zero_warn(
                "this checkpoint was written when an exception ended the run, perhaps in the middle of a batch: the run cannot go "
                "on exactly; last.ckpt beside it can"
            )
        self._unfinished = checkpoint.get("unfinished")
        self._to_override = checkpoint if self.override else None

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
        if self.monitor is None:
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
        if self._folder is None:
            return
        if name != "exception":
            for callback in trainer.callbacks:
                if isinstance(callback, DivergenceGuard):
                    callback.check(trainer)
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # a collective: every rank takes part
        if name == "exception":
            state["exception"] = True
        fault: str | None = None
        if trainer.is_global_zero:
            try:
                write_checkpoint(state, self._folder / f"{name}.ckpt")
            except FileWriteError as error:
                fault = str(error)
        fault = trainer.strategy.broadcast(fault)  # else the other ranks would wait for one that has given up
        if fault is not None:
            raise FileWriteError(f"{fault}. The checkpoint of before is unharmed; make room and resume from it")
        self._saved_at = time.monotonic()
