"""Ends training after the current batch on SIGINT or SIGTERM, on all ranks together.

The handlers only set a flag; the ranks agree on it when a batch or an epoch is complete, so that no rank waits in a collective for
one that left. `AtomicCheckpoint` then saves, and the loops are left there: nobody is told that an epoch has ended which has
not, and no logger gets a point that the uninterrupted run has not. A second signal has its default effect.
"""

import signal
import threading
from types import FrameType
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from plasticity_lightning.runtime.exact_loops import ExactFitLoop, WholeMoments, install

__all__ = ["GracefulStop"]


class GracefulStop(WholeMoments, Callback):
    """Turns the first SIGINT or SIGTERM into an orderly end of `fit`: after the current batch, before a validation that is due.

    The hooks of the training's end are called, those of the epoch's end are not. A signal during validation acts when the epoch, or the
    next batch, is complete.

    Args:
        every_n_batches: how often the ranks agree on the flag, at least 1; matters only with several ranks, where it
            costs one small collective.

    Attributes:
        stop_requested: True once all ranks agreed to stop.
        signal_number: number of the received signal (2 or 15), SIGTERM's where another rank got it, 0 before.

    Raises:
        ValueError: if `every_n_batches` < 1.
    """

    def __init__(self, every_n_batches: int = 1) -> None:
        if every_n_batches < 1:
            raise ValueError(f"every_n_batches must be at least 1, got {every_n_batches}")
        self.every_n_batches = every_n_batches
        self.signal_number = 0
        self._agreed = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def stop_requested(self) -> bool:
        """Whether training ends because of a signal."""
        return self._agreed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have loops that can be left."""
        if stage == "fit":
            self.signal_number, self._agreed = 0, False
            install(trainer)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers, after Lightning's own; before it there is nothing that a stop could spoil."""
        self._install()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers if there was no sanity check."""
        self._install()

    def on_batch_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree with the other ranks, then leave."""
        if trainer.world_size == 1 or trainer.fit_loop.total_batch_idx % self.every_n_batches == 0:
            self._agree(trainer)

    def on_epoch_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after a validation, which may have been long."""
        self._agree(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._restore()

    def _agree(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.signal_number != 0, all=False):
            self._agreed = True
            self.signal_number = self.signal_number or int(signal.SIGTERM)
            cast(ExactFitLoop, trainer.fit_loop).leave = True

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _install(self) -> None:
        if self._previous or threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers in the main thread only
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
