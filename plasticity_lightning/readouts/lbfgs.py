"""The paper's readout loss, solved by preconditioned L-BFGS in tens of full-batch iterations.

Boehning's bound says that the Hessian of the softmax cross-entropy is at most 1/2 X^T X / M per class, X with a
column of ones for the bias. Its Cholesky factor, computed once, is the initial inverse Hessian of every L-BFGS
iteration, rescaled by the last curvature pair. Logits are linear along the search direction, so that backtracking
costs no pass over X: an iteration is one product X D^T and one E^T X. Parameters are kept as theta [K, N + 1], bias
last.

Source: loss of Ivanov & Michmizos 2021 (NALSM); Boehning 1992 for the bound; Nocedal & Wright, algorithm 7.4, for
L-BFGS.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.readouts.loss import soft_cross_entropy, soft_targets, weight_penalty
from plasticity_lightning.readouts.solver import ReadoutSolver

__all__ = ["LBFGSReadout", "second_moment"]

_ARMIJO = 1e-4
_MAX_HALVINGS = 30


def second_moment(x: Tensor, chunk: int = 4096) -> Tensor:
    """X^T X / M of x [M, N] with a column of ones appended: float64 [N + 1, N + 1].

    Products of `chunk` rows are taken in x's own type (fast in float32) and summed in float64.
    """
    n_items, n = x.shape
    moment = torch.zeros(n + 1, n + 1, dtype=torch.float64, device=x.device)
    for part in x.split(chunk):
        moment[:n, :n] += part.T @ part
        moment[n, :n] += part.sum(dim=0, dtype=torch.float64)
    moment[:n, n] = moment[n, :n]
    moment[n, n] = n_items
    return moment / n_items


class LBFGSReadout(ReadoutSolver):
    """L-BFGS on the soft cross-entropy of the whole training set; a step is one iteration.

    It is done after `max_steps`, after `patience` iterations without a better validation accuracy, or when the loss
    falls by less than `tolerance` of itself (or no step lowers it any more).

    Args:
        train_x: features [M, N].
        train_y: labels int64 [M].
        val_x: validation features [V, N].
        val_y: validation labels int64 [V].
        n_classes: K, at least 2.
        max_steps: at least 1.
        patience: iterations without better validation accuracy before it stops, at least 1.
        l2: weight penalty l2 / 2 * ||W||^2, at least 0.
        history: curvature pairs kept, at least 1.
        damping: added to the diagonal of X^T X / M, as a share of its mean diagonal, positive.
        tolerance: relative decrease of the loss that counts as converged, at least 0.

    Raises:
        ValueError: for an argument out of its range, or a damping too small for the Cholesky factor to exist.
    """

    def __init__(
        self,
        train_x: Tensor,
        train_y: Tensor,
        val_x: Tensor,
        val_y: Tensor,
        n_classes: int,
        *,
        max_steps: int = 300,
        patience: int = 50,
        l2: float = 5e-10,
        history: int = 10,
        damping: float = 1e-4,
        tolerance: float = 1e-9,
    ) -> None:
        super().__init__(train_x, train_y, val_x, val_y, n_classes)
        for name, value in (("max_steps", max_steps), ("patience", patience), ("history", history)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping}.")
        if l2 < 0 or tolerance < 0:
            raise ValueError(f"l2 and tolerance must be at least 0, got l2={l2}, tolerance={tolerance}.")
        self.max_steps, self.patience, self.l2 = max_steps, patience, l2
        self.history, self.damping, self.tolerance = history, damping, tolerance
        self._targets = soft_targets(train_y, n_classes, torch.float64)
        self._factor = self._precondition()
        self._theta = torch.zeros(n_classes, train_x.shape[1] + 1, dtype=torch.float64, device=train_x.device)
        self._logits = torch.zeros(len(train_x), n_classes, dtype=torch.float64, device=train_x.device)
        self._loss = self._value(self._logits, self._theta)
        self._grad = self._gradient()
        self._solved = self._solve(self._grad)
        self._pairs = self._theta.new_zeros(0, 3, *self._theta.shape)  # rows: s, y, H0 y
        self._converged = False

    def _precondition(self) -> Tensor:
        moment = 0.5 * second_moment(self.train_x)
        diagonal = moment.diagonal()
        diagonal += self.damping * float(diagonal.mean()) + self.l2
        factor, failed = torch.linalg.cholesky_ex(moment)
        if int(failed):
            raise ValueError(f"damping={self.damping} is too small for these features; try {10 * self.damping:g}.")
        return factor

    def _solve(self, grad: Tensor) -> Tensor:
        return torch.cholesky_solve(grad.T, self._factor).T

    def _value(self, logits: Tensor, theta: Tensor) -> float:
        return float(soft_cross_entropy(logits, self._targets) + weight_penalty(theta[:, :-1], self.l2))

    def _gradient(self) -> Tensor:
        error = (torch.softmax(self._logits, dim=1) - self._targets) / len(self.train_x)
        grad = torch.empty_like(self._theta)
        grad[:, :-1] = error.T.to(self.train_x.dtype) @ self.train_x
        grad[:, -1] = error.sum(dim=0)
        grad[:, :-1] += self.l2 * self._theta[:, :-1]
        return grad

    def _direction(self) -> Tensor:
        """Two-loop recursion; H0 g is known, and the pairs hold H0 y, so that the first loop needs no solve."""
        q_solved = self._solved.clone()
        q = self._grad.clone()
        alphas = []
        for s, y, solved_y in self._pairs.flip(0):
            alpha = (s * q).sum() / (s * y).sum()
            q -= alpha * y
            q_solved -= alpha * solved_y
            alphas.append(alpha)
        if len(self._pairs):
            s, y, solved_y = self._pairs[-1]
            q_solved *= (s * y).sum() / (y * solved_y).sum()
        for (s, y, _), alpha in zip(self._pairs, reversed(alphas), strict=True):
            beta = (y * q_solved).sum() / (s * y).sum()
            q_solved += (alpha - beta) * s
        return -q_solved

    @torch.no_grad()
    def _advance(self) -> tuple[float, float]:
        direction = self._direction()
        slope = float((direction * self._grad).sum())
        along = (self.train_x @ direction[:, :-1].T.to(self.train_x.dtype)).double() + direction[:, -1]
        step = 1.0
        for _ in range(_MAX_HALVINGS):
            theta, logits = self._theta + step * direction, self._logits + step * along
            loss = self._value(logits, theta)
            if loss <= self._loss + _ARMIJO * step * slope:
                self._accept(theta, logits, loss)
                break
            step *= 0.5
        else:  # no decrease left within rounding
            self._converged = True
        train_accuracy = float((self._logits.argmax(dim=1) == self.train_y).double().mean())
        return self._loss, train_accuracy

    def _accept(self, theta: Tensor, logits: Tensor, loss: float) -> None:
        old_theta, old_grad, old_solved = self._theta, self._grad, self._solved
        self._converged = self._loss - loss <= self.tolerance * abs(loss)
        self._theta, self._logits, self._loss = theta, logits, loss
        self._grad = self._gradient()
        self._solved = self._solve(self._grad)
        s, y = theta - old_theta, self._grad - old_grad
        # The loss is convex, so that s.y is positive but for rounding; such a pair would break the recursion.
        if float((s * y).sum()) > 0:
            pair = torch.stack([s, y, self._solved - old_solved])
            self._pairs = torch.cat([self._pairs, pair[None]])[-self.history :]
        self.weight.copy_(theta[:, :-1])
        self.bias.copy_(theta[:, -1])

    def _finished(self) -> bool:
        return self._converged or self.n_steps >= self.max_steps or self.n_steps - self.best_step >= self.patience

    def _own_state(self) -> dict[str, Any]:
        return {
            "theta": self._theta.clone(),
            "logits": self._logits.clone(),
            "loss": self._loss,
            "grad": self._grad.clone(),
            "solved": self._solved.clone(),
            "pairs": self._pairs.clone(),
            "converged": self._converged,
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        for name in ("theta", "logits", "grad", "solved", "pairs"):
            setattr(self, f"_{name}", state[name].clone().to(self._theta))
        self._loss, self._converged = state["loss"], state["converged"]
