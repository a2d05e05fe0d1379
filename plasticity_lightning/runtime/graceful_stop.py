"""SIGINT and SIGTERM end a run after the current batch, with a checkpoint, on every rank together.

The handlers only set a flag; the ranks agree on it between batches. A second signal has its default effect.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

__all__ = ["GracefulStop"]


class GracefulStop(Callback):
    """Turns the first SIGINT or SIGTERM into an orderly end of training.

    Args:
        every_n_batches: how often the ranks agree whether to stop; a single process looks after each batch.

    Attributes:
        signal: number of the signal that ended the run, or None.

    Raises:
        ValueError: if every_n_batches is below 1.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        if every_n_batches < 1:
            raise ValueError(f"every_n_batches={every_n_batches} must be at least 1")
        self.every_n_batches = every_n_batches
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def stop_requested(self) -> bool:
        """Whether this process has received a signal; long work inside a batch may poll it."""
        return self.signal is not None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the handlers, after Lightning's own."""
        self.signal = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if any rank was asked to."""
        if trainer.world_size == 1:
            stop = self.stop_requested
        elif (batch_idx + 1) % self.every_n_batches:
            return
        else:
            stop = trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False)
        if stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._release()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _release(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
