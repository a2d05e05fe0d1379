"""Tasks with the same images and new labels: random ones, or the true ones shuffled.

Only memorising helps, and every task is equally hard for a fresh network: later tasks that are fitted worse show lost
plasticity. Sources: Lyle et al. 2023 (arXiv 2303.01486); Kumar et al. 2023 (arXiv 2308.11958), whose random-label
MNIST has 50 tasks of 1,200 images, 400 epochs in batches of 16 each.
"""

from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.tasks.image_tasks import ImageTaskStream
from plasticity_lightning.data.tasks.task_stream import named_generator

__all__ = ["LabelShiftDataModule"]

Shift = Literal["random", "shuffled"]


class LabelShiftDataModule(ImageTaskStream):
    """The labels of each task are drawn anew, a function of (seed, task).

    There is no validation or test: labels without a rule cannot be generalised to.

    Args:
        shift: `"random"`: labels are drawn uniformly and independently; `"shuffled"`: the true labels are dealt out
            in a random order, so that the classes keep their sizes.
        **kwargs: arguments of `ImageTaskStream`.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    def __init__(self, shift: Literal["random", "shuffled"] = "random", **kwargs: Any) -> None:
        if shift not in get_args(Shift):
            raise DataArgumentError(f"shift={shift!r}: allowed are {', '.join(map(repr, get_args(Shift)))}.")
        super().__init__(**kwargs)
        self.shift: Shift = shift
        self._draw = lru_cache(maxsize=1)(self._labels)

    def labels(self, task: int) -> Tensor:
        """Labels of all training images in a task, int64 [N]."""
        return self._draw(task)

    def task_batch(self, rows: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Training images of these rows and the task's labels for them."""
        images, _ = super().task_batch(rows, task)
        return images, self.labels(task).index_select(0, rows)

    def _labels(self, task: int) -> Tensor:
        generator = named_generator("labels", self.seed, task)
        true = self.image_data.arrays("train")[1]
        if self.shift == "random":
            return torch.randint(self.n_classes, true.shape, generator=generator)
        return true[torch.randperm(len(true), generator=generator)]
