"""Ridge regression on standardised features: the readout in closed form, one candidate penalty a step.

With features standardised by training mean and standard deviation, Z [M, N], and centred one-hot targets Y [M, K],
the weight solves (Z^T Z / M + lambda I) V^T = Z^T Y / M. The standardisation is folded back, W = V / sd and b =
mean(Y) - W mean, so that the readout applies to raw features. A feature that never varies gets no weight.

Source: Hoerl & Kennard 1970; a control that the NALSM replication uses besides the paper's Adadelta.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.readouts.solver import ReadoutSolver, accuracy

__all__ = ["RidgeReadout", "solve_ridge"]


def solve_ridge(moment: Tensor, cross: Tensor, penalty: float) -> Tensor:
    """V [..., N, K] of (moment + penalty I) V = cross.

    Args:
        moment: [..., N, N], symmetric, no eigenvalue below 0.
        cross: [..., N, K].
        penalty: positive.
    """
    system = moment.clone()
    system.diagonal(dim1=-2, dim2=-1).add_(penalty)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(system))


class RidgeReadout(ReadoutSolver):
    """Ridge regression; step k solves for lambdas[k], and the first with the best validation accuracy is chosen.

    `loss` is the mean squared error to the one-hot targets plus lambda * ||V||^2, per item.

    Args:
        train_x: features [M, N].
        train_y: labels int64 [M].
        val_x: validation features [V, N].
        val_y: validation labels int64 [V].
        n_classes: K, at least 2.
        lambdas: penalties to try, positive, relative to unit feature variance.

    Raises:
        ValueError: if lambdas is empty or has a value that is not positive.
    """

    def __init__(
        self,
        train_x: Tensor,
        train_y: Tensor,
        val_x: Tensor,
        val_y: Tensor,
        n_classes: int,
        *,
        lambdas: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    ) -> None:
        super().__init__(train_x, train_y, val_x, val_y, n_classes)
        if not lambdas or not all(value > 0 for value in lambdas):
            raise ValueError(f"lambdas must be one or more positive numbers, got {lambdas}.")
        self.lambdas = tuple(lambdas)
        self._mean = train_x.mean(dim=0, dtype=torch.float64)
        deviation = self._deviation()
        # Rounding leaves a constant feature a tiny deviation; it must not be blown up to unit variance.
        varies = deviation > 1e-6 * self._mean.abs()
        self._inverse_deviation = torch.where(varies, 1.0 / deviation.clamp_min(1e-300), torch.zeros_like(deviation))
        one_hot = torch.nn.functional.one_hot(train_y, n_classes).double()
        self._target_mean = one_hot.mean(dim=0)
        self._moment, self._cross = self._moments(one_hot - self._target_mean)
        self._target_variance = float((one_hot - self._target_mean).square().sum()) / len(train_x)

    def _deviation(self) -> Tensor:
        squares = torch.zeros_like(self._mean)
        for part in self.train_x.split(4096):
            squares += (part.double() - self._mean).square().sum(dim=0)
        return (squares / len(self.train_x)).sqrt()

    def _moments(self, centred: Tensor) -> tuple[Tensor, Tensor]:
        n = self.train_x.shape[1]
        moment, cross = self._mean.new_zeros(n, n), self._mean.new_zeros(n, self.n_classes)
        for part, target in zip(self.train_x.split(4096), centred.split(4096), strict=True):
            z = ((part.double() - self._mean) * self._inverse_deviation).to(self.train_x.dtype)
            moment += z.T @ z
            cross += z.T @ target.to(z.dtype)
        return moment / len(self.train_x), cross / len(self.train_x)

    def _advance(self) -> tuple[float, float]:
        penalty = self.lambdas[self.n_steps]
        v = solve_ridge(self._moment, self._cross, penalty)  # [N, K]
        # mean ||Y - Z V||^2 + lambda ||V||^2 at its minimum is mean ||Y||^2 - <V, Z^T Y / M>.
        loss = self._target_variance - float((v * self._cross).sum())
        weight = (v * self._inverse_deviation[:, None]).T
        self.weight.copy_(weight)
        self.bias.copy_(self._target_mean - weight @ self._mean)
        return loss, accuracy(self.train_x, self.train_y, self.weight, self.bias)

    def _finished(self) -> bool:
        return self.n_steps >= len(self.lambdas)

    def _own_state(self) -> dict[str, Any]:
        return {}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        return None
