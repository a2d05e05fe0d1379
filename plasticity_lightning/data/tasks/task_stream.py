"""A LightningDataModule whose training data are a sequence of tasks, each a fixed number of epochs long.

The task, the order of its samples and all that is drawn for it are functions of (seed, epoch), so a resumed run
continues the same stream. Nothing is stored per task: a batch is formed when it is asked for. The loader's keys carry
the task (key = task * rows + row), so that a batch depends on its keys alone.
"""

import hashlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.loading import check_loader_arguments
from plasticity_lightning.runtime.loaders import ResumableDataLoader, SeededSampler

__all__ = ["TaskStream", "named_generator"]


def named_generator(name: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose seed is a function of a name and some numbers, such as ("labels", seed, task)."""
    text = "/".join((name, *map(str, numbers)))
    digest = hashlib.blake2b(text.encode(), digest_size=7).digest()  # 56 bits: any manual_seed takes them
    return torch.Generator().manual_seed(int.from_bytes(digest))


class TaskStream(LightningDataModule, ABC):
    """Batches (x [B, ...], y [B] or [B, 1]) of one task after another.

    An epoch of the Trainer gives `epoch_size` samples of one task. Subclasses implement `n_rows` and `task_batch`, and
    may narrow a task to some rows (`task_rows`) or change the lengths of tasks (`task_of`). With several processes
    each gets its share of the same order.

    Args:
        epochs_per_task: epochs of the Trainer that a task lasts, at least 1.
        batch_size: samples a batch and process, at least 1; the last batch of an epoch may be smaller.
        seed: of the tasks and of the order, at least 0.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    in_memory: ClassVar[bool] = True  # worker processes would only cost

    def __init__(self, epochs_per_task: int = 1, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__()
        check_loader_arguments(batch_size, 0, seed, {}, 0)
        if epochs_per_task < 1:
            raise DataArgumentError(f"epochs_per_task={epochs_per_task}: must be an integer of at least 1.")
        self.epochs_per_task, self.batch_size, self.seed = epochs_per_task, batch_size, seed
        self._order: _TaskOrder | None = None
        self._last_epoch = 0

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Number of samples among which tasks choose."""

    @property
    def epoch_size(self) -> int:
        """Samples that an epoch of the Trainer gives, the same for every task."""
        return self.n_rows

    @abstractmethod
    def task_batch(self, rows: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these rows [B] as the task has them."""

    def task_of(self, epoch: int) -> int:
        """Task, from 0, that is trained in an epoch, from 0."""
        return epoch // self.epochs_per_task

    def task_rows(self, task: int) -> Tensor:
        """Rows, int64, that belong to a task: all of them here."""
        return torch.arange(self.n_rows)

    @property
    def epoch(self) -> int:
        """The epoch that is trained now or was trained last, also after a resume."""
        return self._last_epoch if self._order is None else self._order.epoch

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches of the task of the loader's epoch (see `DistributedSampler.set_epoch`)."""
        order = _TaskOrder(self)
        order.set_epoch(self.epoch)
        self._order = order
        return ResumableDataLoader(_TaskBatches(self), self.batch_size, sampler=order, collate_fn=_unchanged)

    def state_dict(self) -> dict[str, Any]:
        """The last epoch: evaluation alone has to know which task that was."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the epoch up again."""
        self._last_epoch, self._order = int(state_dict["epoch"]), None


class _TaskOrder(SeededSampler):
    """Keys of an epoch: the rows of its task in random order, as many passes over them as fill the epoch."""

    def __init__(self, stream: TaskStream) -> None:
        super().__init__(stream.epoch_size, stream.seed)
        self.stream = stream

    def order(self, epoch: int) -> list[int]:
        task = self.stream.task_of(epoch)
        rows = self.stream.task_rows(task)
        generator = named_generator("order", self.seed, epoch)
        passes = -(-self.length // len(rows))
        drawn = torch.cat([rows[torch.randperm(len(rows), generator=generator)] for _ in range(passes)])
        return (drawn[: self.length] + task * self.stream.n_rows).tolist()


class _TaskBatches(Dataset[Any]):
    """Forms a batch from keys of one task."""

    def __init__(self, stream: TaskStream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return self.stream.epoch_size

    def __getitems__(self, keys: list[int]) -> tuple[Tensor, Tensor]:
        n_rows = self.stream.n_rows
        task = keys[0] // n_rows
        return self.stream.task_batch(torch.tensor(keys, dtype=torch.int64) - task * n_rows, task)


def _unchanged(batch: Any) -> Any:
    return batch
