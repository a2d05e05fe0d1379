"""Targets, losses and exploration of DrQ-v2 as functions of tensors.

The agent learns from pixels by deterministic policy gradients with n-step returns, twin critics and exploration noise
whose standard deviation falls on a schedule. Shapes: actions [B, A], values [B, 1].

Source: Yarats et al. 2021 (DrQ-v2), sections 3.1 and 3.2, and its published code.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor, nn

__all__ = ["actor_loss", "bootstrapped_target", "critic_loss", "noisy_action", "soft_update"]

_EDGE = 1e-6  # the published code keeps actions this far inside of [-1, 1]


def noisy_action(mean: Tensor, stddev: float | Tensor, noise: Tensor, noise_clip: float | None = None) -> Tensor:
    """Action of a truncated normal around the mean, which keeps the gradient of the mean.

    Args:
        mean: [B, A] in [-1, 1].
        stddev: sigma of the noise, at least 0; a scalar.
        noise: standard normal numbers [B, A].
        noise_clip: largest absolute value of sigma * noise; None does not clip, as when acting.

    Returns:
        [B, A] within 1e-6 of the open interval (-1, 1). The clamp passes the gradient straight through.
    """
    noise = noise * stddev
    if noise_clip is not None:
        noise = noise.clamp(-noise_clip, noise_clip)
    action = mean + noise
    clamped = action.clamp(-1 + _EDGE, 1 - _EDGE)
    return action - action.detach() + clamped.detach()


def bootstrapped_target(reward: Tensor, discount: Tensor, q1: Tensor, q2: Tensor) -> Tensor:
    """R_n + gamma_n min(Q1', Q2')(s', a').

    Args:
        reward: n-step return R_n [B, 1].
        discount: gamma_n [B, 1], gamma^n times the discounts of the environment on the way; 0 behind a terminal state.
        q1: first estimate of the target critic [B, 1].
        q2: second estimate [B, 1].
    """
    return reward + discount * torch.minimum(q1, q2)


def critic_loss(q1: Tensor, q2: Tensor, target: Tensor) -> Tensor:
    """Sum of the mean squared errors of both estimates, in float32 at least."""
    target = target.to(torch.promote_types(target.dtype, torch.float32))
    return F.mse_loss(q1.to(target.dtype), target) + F.mse_loss(q2.to(target.dtype), target)


def actor_loss(q1: Tensor, q2: Tensor) -> Tensor:
    """-mean(min(Q1, Q2)), in float32 at least."""
    smaller = torch.minimum(q1, q2)
    return -smaller.to(torch.promote_types(smaller.dtype, torch.float32)).mean()


@torch.no_grad()
def soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Target <- (1 - tau) target + tau source, parameter by parameter, all in one call; buffers are copied."""
    torch._foreach_lerp_(_detached(target.parameters()), _detached(source.parameters()), tau)
    for ours, theirs in zip(target.buffers(), source.buffers(), strict=True):
        ours.copy_(theirs)


def _detached(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach() for p in parameters]
