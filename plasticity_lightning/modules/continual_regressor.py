"""Regression on a stream of tasks, scored by the prequential squared error."""

from torch import Tensor
from torch.nn.functional import mse_loss
from torchmetrics import MeanSquaredError, Metric

from plasticity_lightning.modules.continual_learner import ContinualLearner

__all__ = ["ContinualRegressor"]


class ContinualRegressor(ContinualLearner):
    """Mean squared error on batches (x [B, ...], y [B, K]); logs as `ContinualLearner`, score `mse`.

    Args:
        network: maps x to predictions [B, K].
        optimizer: called with the parameters.

    Raises:
        MisconfigurationException: at the start of `fit`, if there is no data module with `task_of`.
    """

    score = "mse"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error."""
        return mse_loss(output, target)

    def metric(self) -> Metric:
        """Mean squared error over all samples and outputs."""
        return MeanSquaredError()
