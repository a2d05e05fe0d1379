"""Ends training after the current batch on SIGINT or SIGTERM, on all ranks together.

The handlers only set a flag; the ranks agree on it after a batch, so that no rank waits in a collective for one that
left. `AtomicCheckpoint` then saves. A second signal has its default effect.
"""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["GracefulStop"]


class GracefulStop(Callback):
    """Turns the first SIGINT or SIGTERM into an orderly end of `fit`: after the current batch, without validation inside an epoch.

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
        self._val_batches: int | float | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def stop_requested(self) -> bool:
        """Whether training ends because of a signal."""
        return self._agreed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers, after Lightning's own."""
        self.signal_number, self._agreed = 0, False
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers in the main thread only
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Agree with the other ranks, then ask the Trainer to stop."""
        due = trainer.world_size == 1 or trainer.fit_loop.total_batch_idx % self.every_n_batches == 0
        if due and trainer.strategy.reduce_boolean_decision(self.signal_number != 0, all=False):
            self._agreed = True
            self.signal_number = self.signal_number or int(signal.SIGTERM)
            # a signal ends the run whatever min_epochs and min_steps ask for
            trainer.fit_loop.min_epochs = None
            trainer.fit_loop.epoch_loop.min_steps = None
            trainer.should_stop = True
            if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
                # Lightning validates before it stops, which may outlast the grace period that follows a SIGTERM
                self._val_batches = trainer.limit_val_batches
                trainer.limit_val_batches = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()
        if self._val_batches is not None:
            trainer.limit_val_batches, self._val_batches = self._val_batches, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
