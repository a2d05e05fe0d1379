"""A training loader for modules that make their own data: it yields the numbers of ticks.

A module that steps environments owns its data; what the Trainer needs is something to iterate over. One batch is one
tick; an epoch is a finite number of them, so that epoch ends, the progress bar's total and `ModelCheckpoint` work. An
epoch resets nothing. The loader is resumable inside an epoch, and every rank gets all ticks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

__all__ = ["TickLoader"]


class _Ticks(IterableDataset[int]):
    def __init__(self, length: int) -> None:
        self.length, self.first = length, 0

    def __iter__(self) -> Iterator[int]:
        first, self.first = self.first, 0
        return iter(range(first, self.length))

    def __len__(self) -> int:
        return self.length


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
        self._ticks = _Ticks(ticks_per_epoch)
        self._given = 0
        super().__init__(self._ticks, batch_size=None, num_workers=0)

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        self._given = self._ticks.first
        for tick in self._ticks:
            self._given = tick + 1
            yield tick

    def state_dict(self) -> dict[str, int]:
        """Ticks given in this epoch."""
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the given ticks; behind the last one a new epoch begins."""
        self._ticks.first = state["given"] % self._ticks.length
