"""Class-incremental learning: every task adds classes, and trains on all classes so far.

Source: Dohare et al. 2024 (Nature 632, 768), whose CIFAR-100 starts with 5 classes and adds 5 every 200 epochs.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.images.image_datamodule import ImageClassificationDataModule
from plasticity_lightning.data.loading import batch_loader
from plasticity_lightning.data.tasks.image_tasks import ImageSet, ImageTaskStream
from plasticity_lightning.data.tasks.task_stream import named_generator

__all__ = ["ClassIncrementalDataModule"]


class ClassIncrementalDataModule(ImageTaskStream):
    """Task t has the images of the first (t + 1) * `classes_per_task` classes of an order drawn by the seed.

    When all classes are in, the last task goes on. An epoch of the Trainer has as many samples in every task: a
    small task shows its images several times. The test is on the classes so far; the output layer has all classes from
    the start.

    Args:
        classes_per_task: classes that a task adds, at least 1.
        images: the data set.
        samples_per_epoch: of the Trainer; null takes the number of all training images.
        **kwargs: arguments of `ImageTaskStream`.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    def __init__(
        self,
        classes_per_task: int = 5,
        images: ImageSet = "cifar100",
        samples_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(images=images, **kwargs)
        if not 1 <= classes_per_task <= self.n_classes:
            raise DataArgumentError(f"classes_per_task={classes_per_task}: must lie in 1..{self.n_classes}.")
        if samples_per_epoch is not None and samples_per_epoch < 1:
            raise DataArgumentError(
                f"samples_per_epoch={samples_per_epoch}: must be at least 1, or null for all images."
            )
        self.classes_per_task, self.samples_per_epoch = classes_per_task, samples_per_epoch

    @property
    def epoch_size(self) -> int:
        """`samples_per_epoch`, or all training images."""
        return self.samples_per_epoch or self.n_rows

    def task_of(self, epoch: int) -> int:
        """As in `TaskStream`, up to the task with all classes."""
        return min(super().task_of(epoch), -(-self.n_classes // self.classes_per_task) - 1)

    def classes(self, task: int) -> Tensor:
        """The classes of a task, int64, in the order in which they came."""
        order = torch.randperm(self.n_classes, generator=named_generator("class order", self.seed))
        return order[: (task + 1) * self.classes_per_task]

    def task_rows(self, task: int) -> Tensor:
        """Training images of the classes so far."""
        return self._rows("train", task)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images of the classes of the task trained last."""
        rows = self._rows("test", self.task_of(self.epoch))
        return batch_loader(_SomeImages(self.image_data, rows), self.batch_size, False, self.seed, 0)

    def _rows(self, split: Literal["train", "test"], task: int) -> Tensor:
        rows = torch.isin(self.image_data.arrays(split)[1], self.classes(task)).nonzero()[:, 0]
        if not len(rows):
            raise DataArgumentError(f"task {task}: the {split} images have none of its classes; use more of them.")
        return rows


class _SomeImages(Dataset[Any]):
    """Chosen test images."""

    def __init__(self, images: ImageClassificationDataModule, rows: Tensor) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        return self.images.batch("test", self.rows[torch.tensor(positions, dtype=torch.int64)])
