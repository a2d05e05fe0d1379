"""Training data in an order that is a pure function of (seed, epoch), resumable inside an epoch.

`SeededSampler` needs no stored generator: the permutation of an epoch is drawn anew from its seed. `ResumableDataLoader`
counts the batches that it gave and, after a resume, starts behind them without loading the skipped ones.
"""

from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

__all__ = ["ResumableDataLoader", "SeededSampler"]


class SeededSampler(DistributedSampler[Any]):
    """Indices 0..length-1 in an order given by (seed, epoch), dealt out to the ranks in turn.

    It is a `DistributedSampler` so that Lightning leaves it in place under DDP (it would otherwise wrap it and draw an
    order of its own). Rank and world size are read when iteration starts; a remainder is filled up from the start of
    the order, so that all ranks get the same number.

    Args:
        length: number of samples, at least 1.
        seed: non-negative.
        shuffle: False gives 0, 1, 2, ... in every epoch.

    Raises:
        ValueError: if `length` < 1 or `seed` < 0.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        super().__init__(cast(Dataset[Any], range(length)), num_replicas=1, rank=0, shuffle=shuffle, seed=seed)
        self.length = length
        self.start = 0

    def order(self, epoch: int) -> list[int]:
        """The order of an epoch over all ranks."""
        if not self.shuffle:
            return list(range(self.length))
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        return torch.randperm(self.length, generator=generator).tolist()

    def __iter__(self) -> Iterator[int]:
        rank, world = _rank_and_world()
        order = self.order(self.epoch)
        order += [order[i % self.length] for i in range(-self.length % world)]
        mine = order[rank::world][self.start :]
        self.start = 0
        return iter(mine)

    def __len__(self) -> int:
        return -(-self.length // _rank_and_world()[1])


class ResumableDataLoader(DataLoader[Any]):
    """A DataLoader that Lightning can save and resume in the middle of an epoch.

    Random transforms inside worker processes restart with the epoch's seed after a mid-epoch resume; with
    `num_workers=0` they use the global generators, which `RNGState` restores.

    Args:
        dataset: map-style data set with a length.
        batch_size: samples per batch and rank.
        shuffle: a new order in every epoch, or none.
        seed: seed of the orders.
        sampler: a `SeededSampler` to use in place of one built from `shuffle` and `seed`.
        batch_sampler: replaces batch_size and order, and is not resumable.
        kwargs: further arguments of `DataLoader`.

    Raises:
        TypeError: if `sampler` is not a `SeededSampler`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        sampler: SeededSampler | None = None,
        batch_sampler: Any = None,
        **kwargs: Any,
    ) -> None:
        self._given = 0
        self._resume: tuple[int, int] | None = None
        self._order: SeededSampler | None = None
        if batch_sampler is not None:  # Lightning rebuilds the loader so for `predict`
            super().__init__(dataset, batch_sampler=batch_sampler, **kwargs)
            return
        if sampler is None:
            sampler = SeededSampler(len(cast(Sized, dataset)), seed, shuffle)
        if not isinstance(sampler, SeededSampler):
            raise TypeError(f"sampler must be a SeededSampler, got {type(sampler).__name__}")
        # its own generator: the base class draws a seed per iterator, from the global one by default
        kwargs["generator"] = torch.Generator()
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, **kwargs)
        self._order = sampler

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # a generator: the body runs at the first batch, after Lightning has set the epoch
        if self._order is None:
            yield from super().__iter__()
            return
        epoch = self._order.epoch
        skip = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        self._given = skip
        self._order.start = skip * int(self.batch_size or 1)
        cast(torch.Generator, self.generator).manual_seed(_mix(self._order.seed, epoch))
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and the number of batches given in it."""
        return {"epoch": 0 if self._order is None else self._order.epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the given batches if iteration goes on in the same epoch."""
        self._resume = (state["epoch"], state["batches"])


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit seed from two numbers; odd multipliers keep (seed, epoch) and (epoch, seed) apart."""
    return (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + 1) % (1 << 63)


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
