"""Streams of tasks over the images of a data set: what they share, and permuted inputs.

Permuted-input tasks show the same images under a new, fixed permutation of the pixels, so that every task is equally
hard for a network without convolution and what was learnt before helps little. Sources: Goodfellow et al. 2013
(arXiv 1312.6211); as a test of plasticity with 800 tasks of 60,000 samples, Dohare et al. 2024 (Nature 632, 768).
"""

from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.images.datasets import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
)
from plasticity_lightning.data.images.image_datamodule import ImageClassificationDataModule
from plasticity_lightning.data.loading import batch_loader
from plasticity_lightning.data.tasks.task_stream import TaskStream, named_generator

__all__ = ["ImageSet", "ImageTaskStream", "PermutedInputDataModule"]

ImageSet = Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]

_IMAGES: dict[str, type[ImageClassificationDataModule]] = {
    "digits": DigitsDataModule,
    "mnist": MNISTDataModule,
    "fashion_mnist": FashionMNISTDataModule,
    "cifar10": CIFAR10DataModule,
    "cifar100": CIFAR100DataModule,
}


class ImageTaskStream(TaskStream):
    """Tasks made of the images of a data set; a batch is (images float [B, C, H, W], labels int64 [B]).

    Args:
        images: the data set.
        root: folder to look in first; see `plasticity_lightning.data.sources`.
        download: whether to download what is not found.
        limit_train: use only the first so many training images.
        limit_test: likewise for the test.
        val_size: the last images of the training file that serve for validation, as a number (int) or share (float).
        normalize: subtract the training set's mean and divide by its standard deviation per channel.
        **kwargs: arguments of `TaskStream`.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    def __init__(
        self,
        images: ImageSet = "mnist",
        root: str | None = None,
        download: bool = True,
        limit_train: int | None = None,
        limit_test: int | None = None,
        val_size: int | float = 0,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if images not in _IMAGES:
            raise DataArgumentError(f"images={images!r}: allowed are {', '.join(map(repr, get_args(ImageSet)))}.")
        self.image_data = _IMAGES[images](
            root=root,
            download=download,
            val_size=val_size,
            limit_train=limit_train,
            limit_test=limit_test,
            normalize=normalize,
            batch_size=self.batch_size,
        )
        self.n_classes = self.image_data.n_classes

    @property
    def n_rows(self) -> int:
        """Training images."""
        return len(self.image_data.arrays("train")[1])

    def prepare_data(self) -> None:
        """Download and decode on one process, before the others look for the result."""
        self.image_data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the images."""
        self.image_data.setup(stage)

    def task_batch(self, rows: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Training images and labels of these rows, as the data set has them."""
        return self.image_data.batch("train", rows)


class PermutedInputDataModule(ImageTaskStream):
    """Each task permutes the pixels of all images in its own way, the same for every image and channel.

    Validation and test images are permuted as those of the task that is trained now, or was trained last.

    Args:
        val_size: as in `ImageTaskStream`.
        **kwargs: arguments of `ImageTaskStream`.
    """

    def __init__(self, val_size: int | float = 10_000, **kwargs: Any) -> None:
        super().__init__(val_size=val_size, **kwargs)

    def permutation(self, task: int) -> Tensor:
        """Where the pixels of a task come from: int64 [H * W], `new[i] = old[permutation[i]]`."""
        _, height, width = self.image_data.image_shape
        return _permutation(self.seed, task, height * width)

    def task_batch(self, rows: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Permuted training images, and their labels."""
        images, labels = super().task_batch(rows, task)
        return self.permute(images, task), labels

    def permute(self, images: Tensor, task: int) -> Tensor:
        """Images [B, C, H, W] with the pixels where the task has them."""
        return images.flatten(2).index_select(2, self.permutation(task)).view_as(images)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation images under the current permutation; an empty list if `val_size` is 0."""
        return self._evaluation("val") if len(self.image_data.arrays("val")[1]) else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images under the permutation of the last task."""
        return self._evaluation("test")

    def _evaluation(self, split: Literal["val", "test"]) -> DataLoader[Any]:
        return batch_loader(_PermutedImages(self, split), self.batch_size, False, self.seed, 0)


class _PermutedImages(Dataset[Any]):
    """A split under the permutation of the stream's current task."""

    def __init__(self, stream: PermutedInputDataModule, split: Literal["val", "test"]) -> None:
        self.stream, self.split = stream, split

    def __len__(self) -> int:
        return len(self.stream.image_data.arrays(self.split)[1])

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        images, labels = self.stream.image_data.batch(self.split, torch.tensor(rows, dtype=torch.int64))
        return self.stream.permute(images, self.stream.task_of(self.stream.epoch)), labels


@lru_cache(maxsize=4)  # one task at a time is in use; 784 numbers
def _permutation(seed: int, task: int, n_pixels: int) -> Tensor:
    return torch.randperm(n_pixels, generator=named_generator("permutation", seed, task))
