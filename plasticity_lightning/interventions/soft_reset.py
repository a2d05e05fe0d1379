"""Soft reset: before each step, weights drift towards their initial values, by as much as the data ask for.

With a drift gamma in [0, 1], W(gamma) = gamma W + (1 - gamma) W_0, gamma = 1 being no drift. One step of gradient descent
on the loss from gamma = 1 gives gamma = 1 - rate * <g, W - W_0>, clipped to [lowest, 1], with g the gradient at W: where
going back would lower the loss, the weights go back. Each parameter has its own gamma. It is the first-order form of the
adaptive drift of Galashov et al. 2024, who fit gamma to the predictive likelihood and enlarge the learning rate with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["drift_factor", "drift_towards"]


@torch.no_grad()
def drift_factor(gradient: Tensor, weight: Tensor, anchor: Tensor, rate: float, lowest: float = 0.9) -> Tensor:
    """Gamma = clip(1 - rate * <g, W - W_0>, lowest, 1), a scalar tensor; 1 where the product is not finite.

    Args:
        gradient: of the loss at W.
        weight: W.
        anchor: W_0.
        rate: step size on gamma, at least 0.
        lowest: strongest drift of one step, in [0, 1].
    """
    gain = torch.sum(gradient * (weight - anchor), dtype=torch.float32)
    gamma = (1 - rate * gain).clamp(lowest, 1.0)
    return torch.where(gain.isfinite(), gamma, torch.ones_like(gamma))


@torch.no_grad()
def drift_towards(weight: Tensor, anchor: Tensor, gamma: Tensor) -> None:
    """W <- gamma W + (1 - gamma) W_0, in place."""
    weight.lerp_(anchor, (1 - gamma).to(weight))
