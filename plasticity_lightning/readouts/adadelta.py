"""The paper's readout: minibatch Adadelta in fixed order, written as one fused loop with the explicit gradient.

For a batch X [B, N] with targets T [B, K]: E = (softmax(X W^T + b) - T) / B, dW = E^T X + l2 W, db = column sums of
E; then Adadelta on both, whose accumulators live in one flat buffer so that an update is a few element-wise
operations. Everything starts at zero, batches keep their order, and the last epoch cannot be chosen, as in the
original. `lr` 0.1, `rho` 0.95 and `eps` 1e-8 are TensorFlow's defaults that the paper used; `torch.optim.Adadelta`
has others.

Source: Ivanov & Michmizos 2021 (NALSM), readout of the published code; Zeiler 2012 for Adadelta.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.readouts.loss import soft_targets
from plasticity_lightning.readouts.solver import ReadoutSolver

__all__ = ["AdadeltaReadout"]


class AdadeltaReadout(ReadoutSolver):
    """Adadelta on the soft cross-entropy; a step is one epoch.

    `loss` and `train_accuracy` of a step are means over the epoch's items, each taken before its batch's update, so
    that an epoch is one pass over the data.

    Args:
        train_x: features [M, N].
        train_y: labels int64 [M].
        val_x: validation features [V, N].
        val_y: validation labels int64 [V].
        n_classes: K, at least 2.
        epochs: at least 2, because the last one is excluded from selection.
        lr: factor on Adadelta's update, positive.
        rho: decay of both accumulators, in [0, 1).
        eps: added under both roots, positive.
        batch_size: items per update, at least 1; the last batch may be smaller.
        l2: weight penalty l2 / 2 * ||W||^2, at least 0.

    Raises:
        ValueError: for an argument out of its range.
    """

    def __init__(
        self,
        train_x: Tensor,
        train_y: Tensor,
        val_x: Tensor,
        val_y: Tensor,
        n_classes: int,
        *,
        epochs: int = 5000,
        lr: float = 0.1,
        rho: float = 0.95,
        eps: float = 1e-8,
        batch_size: int = 250,
        l2: float = 5e-10,
    ) -> None:
        super().__init__(train_x, train_y, val_x, val_y, n_classes)
        if epochs < 2:
            raise ValueError(f"epochs must be at least 2 (the last one cannot be chosen), got {epochs}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if not (lr > 0 and eps > 0):
            raise ValueError(f"lr and eps must be positive, got lr={lr}, eps={eps}.")
        if not 0 <= rho < 1:
            raise ValueError(f"rho must lie in [0, 1), got {rho}.")
        if l2 < 0:
            raise ValueError(f"l2 must be at least 0, got {l2}.")
        self.epochs, self.lr, self.rho, self.eps, self.batch_size, self.l2 = epochs, lr, rho, eps, batch_size, l2
        self._targets = soft_targets(train_y, n_classes, train_x.dtype)
        size = self.weight.numel()
        # weight and bias are views of one buffer, and so are their gradients.
        self._theta = train_x.new_zeros(size + n_classes)
        self.weight = self._theta[:size].view_as(self.weight)
        self.bias = self._theta[size:]
        self._grad = torch.zeros_like(self._theta)
        self._grad_weight = self._grad[:size].view_as(self.weight)
        self._grad_bias = self._grad[size:]
        self._square_avg = torch.zeros_like(self._theta)
        self._delta_avg = torch.zeros_like(self._theta)

    @torch.no_grad()
    def _advance(self) -> tuple[float, float]:
        rho, eps = self.rho, self.eps
        loss = torch.zeros((), dtype=torch.float64, device=self.weight.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.weight.device)
        delta, scale = torch.empty_like(self._theta), torch.empty_like(self._theta)
        batches = zip(
            *(part.split(self.batch_size) for part in (self.train_x, self._targets, self.train_y)), strict=True
        )
        for x, target, y in batches:
            logits = torch.addmm(self.bias, x, self.weight.T)
            correct += (logits.argmax(dim=1) == y).sum()
            log_p = torch.log_softmax(logits, dim=1)
            loss -= (target * log_p).sum()
            error = log_p.exp_().sub_(target).div_(len(x))
            torch.mm(error.T, x, out=self._grad_weight)
            self._grad_weight.add_(self.weight, alpha=self.l2)
            torch.sum(error, dim=0, out=self._grad_bias)
            self._square_avg.mul_(rho).addcmul_(self._grad, self._grad, value=1 - rho)
            torch.add(self._delta_avg, eps, out=delta).sqrt_()
            torch.add(self._square_avg, eps, out=scale).sqrt_()
            delta.div_(scale).mul_(self._grad)
            self._delta_avg.mul_(rho).addcmul_(delta, delta, value=1 - rho)
            self._theta.sub_(delta, alpha=self.lr)
        n = len(self.train_x)
        penalty = 0.5 * self.l2 * float(self.weight.square().sum())
        return float(loss) / n + penalty, int(correct) / n

    def _finished(self) -> bool:
        return self.n_steps >= self.epochs

    def _selectable(self) -> bool:
        return self.n_steps < self.epochs

    def _own_state(self) -> dict[str, Any]:
        return {"square_avg": self._square_avg.clone(), "delta_avg": self._delta_avg.clone()}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self._square_avg.copy_(state["square_avg"])
        self._delta_avg.copy_(state["delta_avg"])
