"""L2-init: pull weights back to where they started instead of to zero.

Coupled, the loss gets strength * L2(W - W_0)^2 and so the gradient 2 * strength * (W - W_0); decoupled, each step is
followed by W <- W - lr * 2 * strength * (W - W_0), as AdamW does it with decay to zero, so that an adaptive optimiser
does not rescale the pull. For plain SGD the two agree. Source: Kumar et al. 2023, "Maintaining plasticity in continual
learning via regenerative regularization".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["add_anchor_gradient", "pull_to_anchors", "squared_distance"]


@torch.no_grad()
def add_anchor_gradient(parameters: Sequence[Tensor], anchors: Sequence[Tensor], strength: float) -> None:
    """Add 2 * strength * (W - W_0) to the gradient of each parameter, in place.

    A parameter without gradient gets one, as it would from the term in the loss.

    Args:
        parameters: W.
        anchors: W_0, of the same shapes, on the same devices.
        strength: lambda of the penalty, at least 0.
    """
    for parameter, anchor in zip(parameters, anchors, strict=True):
        pull = (parameter - anchor).mul_(2 * strength)
        if parameter.grad is None:
            parameter.grad = pull
        else:
            parameter.grad.add_(pull)


@torch.no_grad()
def pull_to_anchors(parameters: Sequence[Tensor], anchors: Sequence[Tensor], amount: float | Tensor) -> None:
    """W <- W - amount * (W - W_0), in place; `amount` in [0, 1], 1 puts W_0 back."""
    for parameter, anchor in zip(parameters, anchors, strict=True):
        parameter.lerp_(anchor, amount)


@torch.no_grad()
def squared_distance(parameters: Sequence[Tensor], anchors: Sequence[Tensor]) -> Tensor:
    """L2(W - W_0)^2 over all parameters, a scalar on their device; 0 for none."""
    if not parameters:
        return torch.zeros(())
    return torch.stack([(p - a).square().sum().float() for p, a in zip(parameters, anchors, strict=True)]).sum()
