"""Warm start: training begins with a part of the data and goes on with all of them.

Compared with a network that sees all data from the start (`share: 1.0`), the warm-started one fits as well but
generalises worse. Source: Ash & Adams 2020, "On Warm-Starting Neural Network Training" (arXiv 1910.08475), with a
ResNet-18 on CIFAR-10.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.tasks.image_tasks import ImageTaskStream

__all__ = ["WarmStartDataModule"]


class WarmStartDataModule(ImageTaskStream):
    """Task 0 is the first `share` of the training images, for `epochs_per_task` epochs; task 1 is all of them, for good.

    An epoch of the Trainer has as many samples in both: with `share` 0.5 it shows each image of task 0 twice, so
    both tasks take the same number of steps per epoch. Validation and test are those of the data set.

    Args:
        share: of the training images, in (0, 1]; 1 is the control without a warm start.
        val_size: as in `ImageTaskStream`.
        **kwargs: arguments of `ImageTaskStream`.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    def __init__(self, share: float = 0.5, val_size: int | float = 5_000, **kwargs: Any) -> None:
        if not 0 < share <= 1:
            raise DataArgumentError(f"share={share}: must lie in (0, 1].")
        super().__init__(val_size=val_size, **kwargs)
        self.share = share

    def task_of(self, epoch: int) -> int:
        """0 in the first `epochs_per_task` epochs, then 1."""
        return min(epoch // self.epochs_per_task, 1)

    def task_rows(self, task: int) -> Tensor:
        """The first rows, at least one, in task 0; all in task 1."""
        return torch.arange(self.n_rows if task else max(1, round(self.share * self.n_rows)))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation images in file order."""
        return self.image_data.val_dataloader()

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images in file order."""
        return self.image_data.test_dataloader()
