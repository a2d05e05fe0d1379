"""A training loader for modules that make their own data: it yields the numbers of ticks.

A module that steps environments owns its data; what the Trainer needs is something to iterate over. One batch is one
tick; an epoch is a finite number of them, so that epoch ends, the progress bar's total and `ModelCheckpoint` work. An
epoch resets nothing. The loader is resumable inside an epoch, and every rank gets all ticks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.runtime.loaders import SeededSampler

__all__ = ["TickLoader"]


class TickLoader(DataLoader[Any]):
    """Yields 0, 1, ..., ticks_per_epoch - 1, once an epoch.

    Args:
        ticks_per_epoch: at least 1.

    Raises:
        ValueError: if ticks_per_epoch < 1.
    """

    def __init__(self, ticks_per_epoch: int) -> None:
        if ticks_per_epoch < 1:
            raise ValueError(f"ticks_per_epoch={ticks_per_epoch} must be at least 1")
        self._first = self._given = 0
        # a sampler of ours, which Lightning leaves in place under DDP; it warns of iterable data sets that have a length
        sampler = SeededSampler(ticks_per_epoch, shuffle=False)
        super().__init__(cast(Dataset[Any], range(ticks_per_epoch)), batch_size=None, sampler=sampler, num_workers=0)

    def __len__(self) -> int:
        return cast(SeededSampler, self.sampler).length  # on every rank

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        self._given, self._first = self._first, 0
        for tick in range(self._given, len(self)):
            self._given = tick + 1
            yield tick

    def state_dict(self) -> dict[str, int]:
        """Ticks given in this epoch."""
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the given ticks; behind the last one a new epoch begins."""
        self._first = state["given"] % len(self)
