"""A schedule that triggers when a counter crosses a multiple, not when it equals one.

Counters such as `trainer.global_step` jump by several per batch, so `now % every == 0` misses multiples; comparing
`now // every` with the last reading does not. The last reading is state and belongs into the checkpoint.
"""

from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.runtime.updates import UpdateCount, begins_anew, progress_of

__all__ = ["Clock", "Unit", "logging_due"]

Unit = Literal["batch", "update", "epoch", "frame"]


class Clock:
    """Tells when `every` units have passed.

    Args:
        every: interval, at least 1.
        unit: `batch` (batches over all epochs), `update` (passes of the module's update rule: its own
            `progress()["update"]`, else the steps of the optimiser that has stepped most often, see `UpdateCount`),
            `epoch` (finished epochs) or `frame` (the module's `progress()["frame"]`).

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
        self._updates = UpdateCount() if unit == "update" else None

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call it in `on_train_start`: it starts the count of updates, and a clock of an earlier fit begins anew."""
        if self._updates is not None:
            self._updates.start(trainer)
        if begins_anew(trainer) and self.last:
            self.last = min(self.last, self.now(trainer, pl_module))  # a module's own count may go on

    def now(self, trainer: Trainer, pl_module: LightningModule, epoch_end: bool = False) -> int:
        """The counter's reading; call it from the end of a batch or, with `epoch_end`, from the end of an epoch.

        Raises:
            MisconfigurationException: for unit `frame` on a module without `progress()["frame"]`, for unit `update` on
                one without `progress()["update"]` and optimisers, or with several before `start`.
        """
        if self.unit == "batch":
            return trainer.fit_loop.total_batch_idx + 1
        if self._updates is not None:
            return self._updates.read(trainer, pl_module)
        if self.unit == "epoch":
            return trainer.current_epoch + epoch_end  # Lightning counts the epoch only after the hooks of its end
        frame = progress_of(pl_module, "frame")
        if frame is None:
            raise MisconfigurationException(
                f"unit='frame' needs {type(pl_module).__name__}.progress() to return a dict with the key 'frame'; "
                "add it or choose batch, update or epoch"
            )
        return frame

    def crossed(self, now: int) -> bool:
        """Whether a multiple of `every` lies in (last reading, now]; remembers `now`."""
        due = now // self.every > self.last // self.every
        self.last = now
        return due

    def due(self, trainer: Trainer, pl_module: LightningModule, epoch_end: bool = False) -> bool:
        """`crossed` of the present reading."""
        return self.crossed(self.now(trainer, pl_module, epoch_end))

    def state_dict(self) -> dict[str, Any]:
        """The last reading, and the count of updates where it is the unit."""
        return {"last": self.last} | ({} if self._updates is None else {"updates": self._updates.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the last reading up again."""
        self.last = state["last"]
        if self._updates is not None:
            self._updates.load_state_dict(state["updates"])


def logging_due(trainer: Trainer) -> bool:
    """Whether the Trainer logs at the end of this batch; a callback that logs elsewhere only costs time.

    Lightning counts `log_every_n_steps` over all epochs, so a batch's index within its epoch says nothing.
    """
    every = trainer.log_every_n_steps
    return bool(every) and (trainer.fit_loop.total_batch_idx + 1) % every == 0
