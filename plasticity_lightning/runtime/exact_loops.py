"""Lightning's fit loop with a position: where a checkpoint was written, and so how to go on from there.

Lightning's loops save counters and guess from them, on resume, which hooks were done. The guesses are wrong where it matters: a
checkpoint of an epoch's last batch skips the validation and the end of that epoch, one of a batch that validation follows skips
the validation, with `max_steps` the end of an epoch is run twice, and a loader that `estimated_stepping_batches` set up before
the loops' state was known starts its epoch anew; a stop inside an epoch is told to everybody as the epoch's end. The two classes
here write one word in place of the guesses, and call `WholeMoments` at the moments, for which Lightning has no hooks, when a
run can be saved whole or left: a *batch* is complete with the module's own hooks, all counters and what the loggers were told,
validation still to come; an *epoch* is complete likewise; the *end*, after all hooks of the training's end.

No other file touches private parts of the loops (lightning 2.6, `loops/fit_loop.py` and `loops/training_epoch_loop.py`).
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops import _Loop
from lightning.pytorch.loops.fit_loop import RestartStage, _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.protocols import HasRunLimit

__all__ = ["ExactFitLoop", "Moment", "WholeMoments", "inside_epoch", "install", "left"]

Moment = Literal["batch", "epoch", "end"]


class WholeMoments:
    """What a Callback may inherit to be called, in the callbacks' order, where the state of a run is whole. All ranks are."""

    def on_batch_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After all that belongs to a batch, before the validation that it may be followed by."""

    def on_epoch_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After all that belongs to an epoch."""

    def on_run_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After all hooks of the training's end, unless the run was left before."""


class ExactFitLoop(_FitLoop):
    """Fit loop that resumes at the position in the checkpoint; without one, as Lightning does.

    Attributes:
        leave: set it at a whole moment to end the run there, with no validation and no end of an epoch.
    """

    leave = False
    _moment: Moment | None = None  # now
    _pending: Moment | None = None  # of the checkpoint, until the loop has gone on from it

    def tell(self, moment: Moment) -> None:
        """Call the callbacks that wait for `moment`; what they save goes on from it."""
        self._moment = moment
        hook = {"batch": "on_batch_complete", "epoch": "on_epoch_complete", "end": "on_run_complete"}[moment]
        try:
            for callback in self.trainer.callbacks:
                if isinstance(callback, WholeMoments):
                    getattr(callback, hook)(self.trainer, self.trainer.lightning_module)
        finally:
            self._moment = None
        if self.leave:
            self.min_epochs = self.epoch_loop.min_steps = None  # which would keep the loops from ending
            self.trainer.should_stop = True

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Counters, and the moment of saving if it is a whole one."""
        position = {"moment": self._moment, "should_stop": bool(self.trainer.should_stop), "limits": self._limits}
        return {**super().on_save_checkpoint(), "position": position}

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Take up counters and position.

        Raises:
            MisconfigurationException: if the Trainer's limits lie before the checkpoint.
        """
        super().load_state_dict(state_dict, prefix)
        position = state_dict.get(f"{prefix}state_dict", {}).get("position", {})
        self._pending = position.get("moment")
        batches = self.epoch_loop.batch_progress.total
        if self._pending is None and batches.ready == batches.processed == batches.completed + 1:
            # written by another callback from a hook of a batch's end: nearly complete
            self.epoch_loop.batch_progress.increment_completed()
            self._pending = "batch"
        if self._pending in ("epoch", "end"):
            # past the property, which calls every run with `max_steps` a restarted one
            _Loop.restarting.fset(self, False)
            self.epoch_loop.val_loop.restarting = (
                True  # until a batch is trained: no sanity check, which is for beginnings
            )
            # the loaders are to be iterated anew, when the random states are restored
            self._resuming_from_checkpoint = self.epoch_loop._resuming_from_checkpoint = False
        saved, now = position.get("limits", []), self._limits
        if saved == now or (self._pending in ("batch", "epoch") and saved[2:] == now[2:]):
            # a run that ended early has ended; with other limits it is wanted longer
            self.trainer.should_stop = bool(position.get("should_stop", False))
        self._check_limits()

    @property
    def _limits(self) -> list[int | None]:
        callbacks: list[Callback] = self.trainer.callbacks
        return [self.max_epochs, self.max_steps, *(c.run_limit for c in callbacks if isinstance(c, HasRunLimit))]

    @property
    def done(self) -> bool:
        """Not before a batch from the checkpoint has been brought to its end."""
        return False if self._pending == "batch" and self.max_batches != 0 else super().done

    @property
    def skip(self) -> bool:
        """A run that was saved after its last epoch still has the hooks of its end before it."""
        if self._pending == "epoch":
            return self.max_batches == 0 or self.trainer.limit_train_batches == 0
        return super().skip

    def run(self) -> None:
        """Train."""
        self.leave = False
        super().run()

    def setup_data(self) -> None:
        """Set the loaders up; those set up before their state was known get it now."""
        super().setup_data()
        if self.restarting and self._combined_loader_states_to_load and self._data_fetcher is not None:
            self._load_combined_loader_states()
            iter(self._data_fetcher)

    def reset(self) -> None:
        """Nothing to be guessed where the position is known."""
        if self._pending is None:
            super().reset()
            return
        torch.set_grad_enabled(True)
        if self._pending == "batch":
            self._restart_stage = RestartStage.RESTARTED_MID_EPOCH
        else:
            self._pending = None

    def on_advance_end(self) -> None:
        """End the epoch, unless the run was left inside it."""
        if self.leave:
            return
        super().on_advance_end()
        self.tell("epoch")

    def on_run_end(self) -> None:
        """End the training."""
        super().on_run_end()
        if not self.leave:
            self.tell("end")

    def _check_limits(self) -> None:
        epoch, step = self.epoch_progress.current.processed, self.epoch_loop.global_step
        inside = self._pending == "batch"
        where = f"the checkpoint is {'inside' if inside else 'at the end of'} epoch {epoch + inside}, at step {step}"
        if self.max_epochs is not None and self.max_epochs != -1 and epoch + inside > self.max_epochs:
            raise MisconfigurationException(f"{where}, behind max_epochs={self.max_epochs}: raise it")
        if self.max_steps != -1 and step > self.max_steps:
            raise MisconfigurationException(f"{where}, behind max_steps={self.max_steps}: raise it")


class ExactEpochLoop(_TrainingEpochLoop):
    """The batches of an epoch; it goes on from a complete batch with what follows a batch."""

    @property
    def _fit(self) -> ExactFitLoop:
        return cast(ExactFitLoop, self.trainer.fit_loop)

    @property
    def done(self) -> bool:
        """As Lightning's, once a batch from the checkpoint has been brought to its end."""
        return False if self._fit._pending == "batch" else super().done

    def reset(self) -> None:
        """Leave the counters of a known position as they are."""
        if self._fit._pending != "batch":
            super().reset()
            return
        loader = self._fit._combined_loader
        assert loader is not None
        resumable = all(hasattr(part, "load_state_dict") for part in loader.flattened)
        if not resumable and not self._num_ready_batches_reached():
            rank_zero_warn(
                "the checkpoint is inside an epoch and the training loader cannot be resumed there: the epoch goes on with "
                "the first batches of a new order. Use plasticity_lightning.runtime.ResumableDataLoader, or a loader with "
                "`state_dict` and `load_state_dict`"
            )

    def advance(self, data_fetcher: Any) -> None:
        """Run a batch, or nothing for the one that the checkpoint holds."""
        if self._fit._pending != "batch":
            super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        """The batch is complete: tell, leave if that is wished, else validate if that is due."""
        if self._fit._pending == "batch":
            self._fit._pending = None
            _Loop.restarting.fset(self._fit, False)
        else:
            self._fit.tell("batch")
        if not self._fit.leave:
            super().on_advance_end(data_fetcher)


def install(trainer: Trainer) -> None:
    """Give the Trainer these loops; call it from a Callback's `setup` for `fit`, before the checkpoint is read.

    Raises:
        MisconfigurationException: if the Trainer has loops of somebody else's.
    """
    loop = trainer.fit_loop
    if isinstance(loop, ExactFitLoop):
        return
    if type(loop) is not _FitLoop or type(loop.epoch_loop) is not _TrainingEpochLoop:
        raise MisconfigurationException(
            f"the Trainer's loops are {type(loop).__name__} and {type(loop.epoch_loop).__name__}; exact resume and a graceful "
            "stop are known to work with Lightning's own only"
        )
    # the Trainer has built and wired them already: only their behaviour changes
    loop.__class__ = ExactFitLoop
    loop.epoch_loop.__class__ = ExactEpochLoop


def left(trainer: Trainer) -> bool:
    """Whether the hooks of the training's end are called because the run was left, to be resumed, and not because it is over."""
    return isinstance(trainer.fit_loop, ExactFitLoop) and trainer.fit_loop.leave


def inside_epoch(trainer: Trainer) -> bool:
    """Whether training was ended inside an epoch (by a limit or a time-out), though the hooks of an epoch's end are called."""
    return not trainer.fit_loop.epoch_loop._num_ready_batches_reached()
