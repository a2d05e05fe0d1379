"""Data order that survives an interruption: a pure function of (seed, epoch), continued inside an epoch.

After a resume in mid-epoch the loader yields exactly the batches that had not been seen. Under DDP each rank takes every world-size-th item of
one order that all ranks share; the sampler is a DistributedSampler, so Lightning leaves it in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

__all__ = ["ResumableDataLoader", "SeededSampler"]


class SeededSampler(DistributedSampler):
    """Indices 0..length-1 in file order, or in an order drawn anew for each epoch.

    Args:
        length: number of items.
        seed: with the epoch, determines the order; at least 0.
        shuffle: False keeps file order.

    Raises:
        ValueError: if length is below 1 or seed is negative.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True) -> None:
        if length < 1:
            raise ValueError(f"length={length} must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        # no super().__init__: it wants a process group, which may not exist yet
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // _world()[1])

    def __iter__(self) -> Iterator[int]:
        rank, world = _world()
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.length, generator=generator)
        else:
            order = torch.arange(self.length)
        padded = order[torch.arange(len(self) * world) % self.length]  # every rank has the same number of items
        skip, self.skip = self.skip, 0
        yield from padded[rank::world][skip:].tolist()


class ResumableDataLoader(DataLoader):
    """DataLoader with a `SeededSampler` whose place inside the epoch is part of the checkpoint."""

    _yielded = 0
    _skip = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._yielded, self._skip = self._skip, 0
        if self._yielded:
            if not isinstance(self.sampler, SeededSampler) or self.batch_size is None:
                raise TypeError(f"resuming inside an epoch needs a SeededSampler, this loader has {type(self.sampler).__name__}")
            self.sampler.skip = self._yielded * self.batch_size
        for batch in super().__iter__():
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Batches yielded in this epoch."""
        return {"batches": self._yielded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after that many batches; a finished epoch starts anew."""
        self._skip = int(state_dict["batches"]) % max(len(self), 1)


def _world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
