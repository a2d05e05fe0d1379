"""A LightningDataModule over images that fit into memory, with the papers' deterministic splits.

A subclass says what the data are (class attributes) and reads the files (`read`); this class splits them by position
(the last `val_size` items of the training file are for validation), forms batches and augments. Images are kept once,
as uint8 [N, C, H, W]; splits are views of them.
"""

import logging
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data.errors import DataArgumentError, DataFormatError
from plasticity_lightning.data.images.augmentation import AugmentationPlan
from plasticity_lightning.data.loading import batch_loader, check_loader_arguments, limited, split_sizes

__all__ = ["ImageClassificationDataModule", "ImageFiles", "Split"]

_log = logging.getLogger(__name__)

Split = Literal["train", "val", "test", "train_file", "test_file"]


class ImageFiles(NamedTuple):
    """What the files hold: uint8 images [N, C, H, W] and int64 labels [N], in file order."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class ImageClassificationDataModule(LightningDataModule, ABC):
    """Images and labels, split by position, in memory.

    A batch is the pair `(image, label)`, or with `with_index` the dict `{"image", "label", "index"}`: image
    [B, C, H, W], label int64 [B], index int64 [B] = row within the split. Subclasses set `n_classes`, `image_shape`,
    `class_names`, `mean` and `std`, and implement `read`.

    Args:
        root: folder to look in first; see `plasticity_lightning.data.sources`.
        batch_size: items a batch, at least 1; the last batch may be smaller.
        val_size: the last items of the training file that serve for validation: a number (int), or a share (float).
        shuffle: whether training batches follow a new order in each epoch, a function of (seed, epoch).
        seed: of order and augmentation, at least 0.
        num_workers: worker processes of the loaders; 0 is the fastest, since the images are in memory.
        download: whether to download what is not found.
        limit_train: use only the first so many training items, for small protocols.
        limit_val: likewise for validation.
        limit_test: likewise for the test.
        dtype: `"float32"`: images scaled to [0, 1]; `"uint8"`: the stored bytes.
        normalize: subtract the training set's mean and divide by its standard deviation per channel (float32 only).
        augment: random crop (4 pixels of padding) and horizontal flip of training batches. Applied by the Trainer's
            `on_after_batch_transfer`, on the device; a loader iterated without a Trainer yields plain images.
        with_index: batches are dicts with the index instead of pairs.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    in_memory: ClassVar[bool] = True  # worker processes would only cost
    n_classes: ClassVar[int]
    image_shape: ClassVar[tuple[int, int, int]]
    class_names: ClassVar[tuple[str, ...]]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        val_size: int | float = 10_000,
        shuffle: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        download: bool = True,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        dtype: Literal["float32", "uint8"] = "float32",
        normalize: bool = False,
        augment: bool = False,
        with_index: bool = False,
    ) -> None:
        super().__init__()
        self.limits = {"limit_train": limit_train, "limit_val": limit_val, "limit_test": limit_test}
        check_loader_arguments(batch_size, num_workers, seed, self.limits, val_size)
        if dtype not in ("float32", "uint8"):
            raise DataArgumentError(f"dtype={dtype!r}: allowed are 'float32' and 'uint8'.")
        if normalize and dtype == "uint8":
            raise DataArgumentError("normalize=True needs dtype='float32'; with 'uint8' the stored bytes are given.")
        self.root, self.download, self.val_size = root, download, val_size
        self.batch_size, self.shuffle, self.seed, self.num_workers = batch_size, shuffle, seed, num_workers
        self.dtype, self.normalize, self.augment, self.with_index = dtype, normalize, augment, with_index
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}
        self._plan: AugmentationPlan | None = None

    @abstractmethod
    def read(self) -> ImageFiles:
        """Find (or download) and read the files; called once."""

    def prepare_data(self) -> None:
        """Download and decode on one process, before the others look for the result."""
        self._load()

    def setup(self, stage: str | None = None) -> None:
        """Read the files and split them; all stages share them."""
        self._load()

    def arrays(self, split: Split) -> tuple[Tensor, Tensor]:
        """All images, uint8 [N, C, H, W], and labels, int64 [N], of a split, in file order and not augmented.

        Args:
            split: `"train"`, `"val"` or `"test"` as the loaders have them, or `"train_file"` and `"test_file"`: the
                whole files whatever `val_size` and the limits are (for statistics over the whole training set).
        """
        self._load()
        if split not in self._splits:
            raise DataArgumentError(f"split={split!r}: allowed are {', '.join(map(repr, self._splits))}.")
        return self._splits[split]

    def batch(self, split: Split, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Some images of a split as the loaders give them, not augmented: for data modules built on this one.

        Args:
            split: as in `arrays`.
            rows: int64 [B], positions within the split.

        Returns:
            Images [B, C, H, W] of the chosen `dtype` and `normalize`, and labels, int64 [B].
        """
        images, labels = self.arrays(split)
        return _select(images, rows, self._statistics()), labels.index_select(0, rows)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches, in a new order in each epoch if `shuffle`."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation batches in file order; an empty list if `val_size` is 0."""
        return self._loader("val") if len(self.arrays("val")[1]) else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches in file order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test batches."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment a training batch, on its device."""
        if self._plan is None or self.trainer is None or not self.trainer.training:
            return batch
        image, label, index = batch.values() if isinstance(batch, dict) else batch
        image = self._plan(image, index, self.trainer.current_epoch, self._padding_value(image))
        return {"image": image, "label": label, "index": index} if self.with_index else (image, label)

    def _load(self) -> None:
        if self._splits:
            return
        files = self.read()
        _check_files(files, self.image_shape, self.n_classes)
        n_train, n_val = split_sizes(len(files.train_labels), self.val_size)
        n_test = len(files.test_labels)
        train = torch.from_numpy(files.train_images), torch.from_numpy(files.train_labels)
        test = torch.from_numpy(files.test_images), torch.from_numpy(files.test_labels)
        ends = {
            "train": (0, limited("limit_train", self.limits["limit_train"], n_train)),
            "val": (n_train, n_train + limited("limit_val", self.limits["limit_val"], n_val)),
        }
        splits = {name: (train[0][start:end], train[1][start:end]) for name, (start, end) in ends.items()}
        n_test = limited("limit_test", self.limits["limit_test"], n_test)
        splits |= {"test": (test[0][:n_test], test[1][:n_test]), "train_file": train, "test_file": test}
        if self.augment:
            self._plan = AugmentationPlan(len(splits["train"][1]), self.seed)
        self._splits = splits

    def _loader(self, split: Split) -> DataLoader[Any]:
        images, labels = self.arrays(split)
        training = split == "train"
        carry_index = self.with_index or (training and self.augment and self.trainer is not None)
        if training and self.augment and self.trainer is None:
            _log.warning(
                "augment=True has no effect on a loader without a Trainer; pass the data module to Trainer.fit"
            )
        dataset = _ImageBatches(images, labels, self._statistics(), carry_index, self.with_index)
        return batch_loader(dataset, self.batch_size, training and self.shuffle, self.seed, self.num_workers)

    def _statistics(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation [C, 1, 1] that turn bytes into the chosen floats; None for bytes."""
        if self.dtype == "uint8":
            return None
        mean, std = (self.mean, self.std) if self.normalize else ((0.0,), (1.0,))
        return 255 * torch.tensor(mean).view(-1, 1, 1), 255 * torch.tensor(std).view(-1, 1, 1)

    def _padding_value(self, image: Tensor) -> Tensor:
        """What a black pixel has become [C]."""
        black = torch.zeros(image.shape[1], device=image.device)
        if self.normalize:
            black = -torch.tensor(self.mean, device=image.device) / torch.tensor(self.std, device=image.device)
        return black.to(image.dtype)


class _ImageBatches(Dataset[Any]):
    """Forms a batch by one `index_select`."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        statistics: tuple[Tensor, Tensor] | None,
        carry_index: bool,
        as_dict: bool,
    ) -> None:
        self.images, self.labels, self.statistics = images, labels, statistics
        self.carry_index, self.as_dict = carry_index, as_dict

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor] | tuple[Tensor, ...]:
        index = torch.tensor(rows, dtype=torch.int64)
        image, label = _select(self.images, index, self.statistics), self.labels.index_select(0, index)
        if self.as_dict:
            return {"image": image, "label": label, "index": index}
        return (image, label, index) if self.carry_index else (image, label)


def _select(images: Tensor, index: Tensor, statistics: tuple[Tensor, Tensor] | None) -> Tensor:
    """The images of an index [B], as floats where there are statistics (see `_statistics`)."""
    chosen = images.index_select(0, index)
    if statistics is None:
        return chosen
    mean, std = statistics
    return chosen.float().sub_(mean).div_(std)


def _check_files(files: ImageFiles, image_shape: tuple[int, int, int], n_classes: int) -> None:
    for name, images, labels in (("training", *files[:2]), ("test", *files[2:])):
        if images.dtype != np.uint8 or images.shape[1:] != image_shape:
            raise DataFormatError(
                f"the {name} images are {images.dtype} of shape {images.shape[1:]}; expected uint8 {image_shape}."
            )
        if len(images) != len(labels) or not len(images):
            raise DataFormatError(f"the {name} file holds {len(images)} images and {len(labels)} labels.")
        if labels.dtype != np.int64 or not 0 <= labels.min() <= labels.max() < n_classes:
            raise DataFormatError(
                f"the {name} labels are {labels.dtype} {labels.min()}..{labels.max()}; "
                f"expected int64 0..{n_classes - 1}."
            )
