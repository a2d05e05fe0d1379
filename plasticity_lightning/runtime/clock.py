"""A schedule that triggers when a counter crosses a multiple, not when it equals one.

Counters such as `trainer.global_step` jump by several per batch, so `now % every == 0` misses multiples; comparing
`now // every` with the last reading does not. The last reading is state and belongs into the checkpoint.
"""

from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

__all__ = ["Clock", "Unit", "logging_due"]

Unit = Literal["batch", "update", "epoch", "frame"]


class Clock:
    """Tells when `every` units have passed.

    Args:
        every: interval, at least 1.
        unit: `batch` (batches over all epochs), `update` (optimizer steps), `epoch` (finished epochs) or `frame`
            (the module's `progress()["frame"]`).

    Raises:
        ValueError: if `every` < 1 or the unit is unknown.
    """

    def __init__(self, every: int, unit: Unit = "batch") -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        if unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {unit!r}")
        self.every = every
        self.unit = unit
        self.last = 0

    def now(self, trainer: Trainer, pl_module: LightningModule, epoch_end: bool = False) -> int:
        """The counter's reading; call it from the end of a batch or, with `epoch_end`, from the end of an epoch.

        Raises:
            MisconfigurationException: for unit `frame` on a module without `progress()["frame"]`.
        """
        if self.unit == "batch":
            return trainer.fit_loop.total_batch_idx + 1
        if self.unit == "update":
            return trainer.global_step
        if self.unit == "epoch":
            return trainer.current_epoch + epoch_end  # Lightning counts the epoch only after the hooks of its end
        progress: Any = getattr(pl_module, "progress", None)
        counts = progress() if callable(progress) else {}
        if "frame" not in counts:
            raise MisconfigurationException(
                f"unit='frame' needs {type(pl_module).__name__}.progress() to return a dict with the key 'frame'; "
                "add it or choose batch, update or epoch"
            )
        return int(counts["frame"])

    def crossed(self, now: int) -> bool:
        """Whether a multiple of `every` lies in (last reading, now]; remembers `now`."""
        due = now // self.every > self.last // self.every
        self.last = now
        return due

    def due(self, trainer: Trainer, pl_module: LightningModule, epoch_end: bool = False) -> bool:
        """`crossed` of the present reading."""
        return self.crossed(self.now(trainer, pl_module, epoch_end))

    def state_dict(self) -> dict[str, int]:
        """The last reading."""
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the last reading up again."""
        self.last = state["last"]


def logging_due(trainer: Trainer) -> bool:
    """Whether the Trainer logs at the end of this batch; a callback that logs elsewhere only costs time.

    Lightning counts `log_every_n_steps` over all epochs, so a batch's index within its epoch says nothing.
    """
    every = trainer.log_every_n_steps
    return bool(every) and (trainer.fit_loop.total_batch_idx + 1) % every == 0
