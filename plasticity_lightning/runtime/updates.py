"""How many updates a run has made: passes of the module's update rule, not steps of its optimisers.

`trainer.global_step` adds up the steps of all optimisers: three a pass for DrQ-v2, whose encoder, critic and actor have
one each. A pass steps each of its optimisers at most once, so the optimiser that has stepped most often has stepped once
a pass, and its steps are the updates; in other words, all steps divided by those per update as seen. This holds for any
number of optimisers, for any number of updates in a batch, none among them, and where some optimisers rest in some
updates (delayed actors). A module whose rule steps one optimiser several times a pass must say its number itself, by
`progress()["update"]`; see `HasProgress`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import _MockOptimizer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.protocols import HasProgress

__all__ = ["UpdateCount", "begins_anew", "optimizers_that_step", "progress_of"]


def begins_anew(trainer: Trainer) -> bool:
    """Whether the fit that starts has trained no batch yet: it neither resumes nor continues another one."""
    return trainer.fit_loop.total_batch_idx < 0


def optimizers_that_step(trainer: Trainer) -> list[Optimizer]:
    """The run's optimisers, without the stand-in that Lightning makes where `configure_optimizers` returns None."""
    return [optimizer for optimizer in trainer.optimizers if not isinstance(optimizer, _MockOptimizer)]


def progress_of(pl_module: LightningModule, key: str) -> int | None:
    """The module's own `progress()[key]`; None if it offers none.

    Raises:
        MisconfigurationException: if `progress()` returns no mapping, or its entry is no integer of at least 0.
    """
    if not isinstance(pl_module, HasProgress) or not callable(pl_module.progress):
        return None
    counts, name = pl_module.progress(), f"{type(pl_module).__name__}.progress()"
    if not isinstance(counts, Mapping):
        raise MisconfigurationException(
            f"{name} must return a mapping of names to integers, as HasProgress says, got {type(counts).__name__}"
        )
    if key not in counts:
        return None
    if not isinstance(counts[key], int) or isinstance(counts[key], bool) or counts[key] < 0:
        raise MisconfigurationException(f"{name}[{key!r}] must be an integer of at least 0, got {counts[key]!r}")
    return counts[key]


class UpdateCount:
    """Counts updates by hooks on the optimisers. Start it in `on_train_start`, when the optimisers exist.

    Steps that a run made before the counter joined it (a Callback that is new on resume) cannot be told apart and are
    divided evenly among the optimisers.
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._seen = 0
        self._handles: list[RemovableHandle] = []

    def start(self, trainer: Trainer) -> None:
        """Count from now on: from 0 in a fit that begins anew, else on from the restored count."""
        self.stop()  # counting another fit
        optimizers = optimizers_that_step(trainer)
        if begins_anew(trainer) or len(self._steps) != len(optimizers):
            self._steps = [trainer.global_step // len(optimizers)] * len(optimizers) if optimizers else []
            self._seen = sum(self._steps)
        self._handles = [
            optimizer.register_step_post_hook(self._hook(index)) for index, optimizer in enumerate(optimizers)
        ]

    def stop(self) -> None:
        """Count no more; safe to call at any time."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def read(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """Updates so far: the module's own number where it offers one, else as counted.

        Raises:
            MisconfigurationException: if nothing counts: the module offers no number and has no optimiser, or has
                several and the counter has not been started.
        """
        own = progress_of(pl_module, "update")
        if own is not None:
            return own
        optimizers = optimizers_that_step(trainer)
        if not optimizers:
            raise MisconfigurationException(
                f"unit='update' needs an optimiser or {type(pl_module).__name__}.progress() with the key 'update'; "
                "add it or choose batch, epoch or frame"
            )
        if self._steps:
            return max(self._steps)
        if len(optimizers) > 1:
            raise MisconfigurationException(
                f"unit='update' with {len(optimizers)} optimisers: call the clock's (or trigger's) "
                "start(trainer, pl_module) in on_train_start, so that it sees which of them step"
            )
        return trainer.global_step

    def stepped(self) -> bool:
        """Whether an optimiser has stepped since the last call, also one that the module steps without Lightning's wrapper."""
        total, before = sum(self._steps), self._seen
        self._seen = total
        return total != before

    def state_dict(self) -> dict[str, Any]:
        """Steps of each optimiser, and those that `stepped` has told of."""
        return {"steps": list(self._steps), "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the steps up again."""
        self._steps, self._seen = list(state["steps"]), state["seen"]

    def _hook(self, index: int) -> Any:
        def count(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            self._steps[index] += 1

        return count
