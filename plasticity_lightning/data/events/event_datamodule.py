"""A LightningDataModule over event recordings, read or simulated one batch at a time.

A subclass provides the recordings of the training and the test file; this class splits them by position and forms
batches in the ragged layout of `EventBatch`.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.events.event_batches import EventBatch, Events, bin_events
from plasticity_lightning.data.loading import batch_loader, check_loader_arguments, limited, split_sizes

__all__ = ["EventDataModule", "Recordings"]


class Recordings(Protocol):
    """A file of recordings: labels int64 [N], and the events of chosen rows as columns."""

    labels: np.ndarray

    def batch(self, rows: np.ndarray) -> Events:
        """Events of these rows; `sample` is the position in `rows`."""


class EventDataModule(LightningDataModule, ABC):
    """Event recordings of a 34x34 sensor with two polarities, split by position.

    A batch is the dict `{"label", "index", "events"}`: label int64 [B], index int64 [B] = row within the split,
    events an `EventBatch` of `duration_ms` steps and 2,312 channels. Its tensors have different lengths, so give
    `self.log` the batch size.

    Args:
        batch_size: recordings a batch, at least 1; the last batch may be smaller.
        duration_ms: T, steps of 1 ms, at least 1; later events are dropped.
        val_size: the last recordings of the training file that serve for validation: a number, or a share (float).
        shuffle: whether training batches follow a new order in each epoch, a function of (seed, epoch).
        seed: of the order, at least 0.
        num_workers: worker processes of the loaders.
        limit_train: use only the first so many training recordings, for small protocols.
        limit_val: likewise for validation.
        limit_test: likewise for the test.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    n_classes: ClassVar[int] = 10
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    sensor_size: ClassVar[tuple[int, int]] = (34, 34)
    n_channels: ClassVar[int] = 2312

    def __init__(
        self,
        batch_size: int = 64,
        duration_ms: int = 300,
        val_size: int | float = 10_000,
        shuffle: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
    ) -> None:
        super().__init__()
        self.limits = {"limit_train": limit_train, "limit_val": limit_val, "limit_test": limit_test}
        check_loader_arguments(batch_size, num_workers, seed, self.limits, val_size)
        if duration_ms < 1:
            raise DataArgumentError(f"duration_ms={duration_ms}: must be at least 1.")
        self.batch_size, self.duration_ms, self.val_size = batch_size, duration_ms, val_size
        self.shuffle, self.seed, self.num_workers = shuffle, seed, num_workers
        self._splits: dict[str, tuple[Recordings, np.ndarray]] = {}

    @abstractmethod
    def recordings(self) -> tuple[Recordings, Recordings]:
        """The training file and the test file; called once."""

    def setup(self, stage: str | None = None) -> None:
        """Find the recordings and split them; all stages share them."""
        if self._splits:
            return
        train, test = self.recordings()
        n_train, n_val = split_sizes(len(train.labels), self.val_size)
        used = limited("limit_train", self.limits["limit_train"], n_train)
        used_val = limited("limit_val", self.limits["limit_val"], n_val)
        used_test = limited("limit_test", self.limits["limit_test"], len(test.labels))
        self._splits = {
            "train": (train, np.arange(used)),
            "val": (train, np.arange(n_train, n_train + used_val)),
            "test": (test, np.arange(used_test)),
        }

    def labels(self, split: Literal["train", "val", "test"]) -> Tensor:
        """Labels of a split, int64 [N], in file order."""
        recordings, rows = self._split(split)
        return torch.from_numpy(recordings.labels[rows])

    def events(self, split: Literal["train", "val", "test"], rows: np.ndarray) -> Events:
        """Events in microseconds of these rows of a split; `sample` is the position in `rows`."""
        recordings, all_rows = self._split(split)
        return recordings.batch(all_rows[rows])

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches, in a new order in each epoch if `shuffle`."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation batches in file order; an empty list if `val_size` is 0."""
        return self._loader("val") if len(self._split("val")[1]) else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches in file order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test batches."""
        return self._loader("test")

    def _split(self, split: str) -> tuple[Recordings, np.ndarray]:
        self.setup()
        if split not in self._splits:
            raise DataArgumentError(f"split={split!r}: allowed are {', '.join(map(repr, self._splits))}.")
        return self._splits[split]

    def _loader(self, split: str) -> DataLoader[Any]:
        dataset = _EventBatches(*self._split(split), self.duration_ms, self.sensor_size)
        return batch_loader(dataset, self.batch_size, split == "train" and self.shuffle, self.seed, self.num_workers)


class _EventBatches(Dataset[Any]):
    """Reads and bins one batch."""

    def __init__(
        self, recordings: Recordings, rows: np.ndarray, duration_ms: int, sensor_size: tuple[int, int]
    ) -> None:
        self.recordings, self.rows = recordings, rows
        self.duration_ms, self.sensor_size = duration_ms, sensor_size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, index: list[int]) -> dict[str, Tensor | EventBatch]:
        rows = self.rows[index]
        events = bin_events(self.recordings.batch(rows), len(rows), self.duration_ms, self.sensor_size)
        label = torch.from_numpy(self.recordings.labels[rows])
        return {"label": label, "index": torch.tensor(index, dtype=torch.int64), "events": events}
