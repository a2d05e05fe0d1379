"""Classification of a stream of tasks, scored by prequential accuracy: the learner of the plasticity bench.

One output layer serves all tasks, and nobody tells the network where a task ends.
"""

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from plasticity_lightning.modules.continual_learner import ContinualLearner

__all__ = ["ContinualClassifier"]


class ContinualClassifier(ContinualLearner):
    """Cross-entropy and accuracy on batches (x [B, ...], label int64 [B]); logs as `ContinualLearner`, score `accuracy`.

    Args:
        network: maps x to logits [B, n_classes].
        n_classes: at least 2.
        optimizer: called with the parameters.

    Raises:
        ValueError: if `n_classes` is below 2.
        MisconfigurationException: at the start of `fit`, if there is no data module with `task_of`.
    """

    score = "accuracy"

    def __init__(
        self, network: nn.Module, n_classes: int = 10, optimizer: OptimizerCallable = torch.optim.Adam
    ) -> None:
        if n_classes < 2:
            raise ValueError(f"n_classes={n_classes}: must be at least 2")
        self.n_classes = n_classes
        super().__init__(network, optimizer)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, nats."""
        return cross_entropy(output, target)

    def metric(self) -> Metric:
        """Share of correct predictions."""
        # the checks of torchmetrics read every batch back from the device
        return MulticlassAccuracy(self.n_classes, average="micro", validate_args=False)
