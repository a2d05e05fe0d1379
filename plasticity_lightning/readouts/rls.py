"""Recursive least squares, with forgetting and reset: the FORCE rule and its relatives.

P estimates the inverse of the (discounted) sum of x x'. One sample changes

    g = P x / (lambda + x' P x),   W <- W + (y - W x) g',   P <- (P - g (P x)') / lambda.

With lambda = 1 and P_0 = I / alpha, W is the ridge solution with penalty alpha on all samples so far: it weighs the
oldest as much as the newest, so after a change it is slow in proportion to its history. lambda < 1 forgets, `reset`
forgets at once. P is float64 and symmetrised: in float32 lambda = 0.999 blows up.

Shapes: weight [..., R, N], inverse [..., N, N], x [..., N], target [..., R], gate [...]: all outputs share one P, so
one gate serves them. Source: Haykin, Adaptive Filter Theory; Sussillo & Abbott 2009 (FORCE).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["RLS", "reset_inverse", "rls_block_step", "rls_state", "rls_step"]


class RLS(NamedTuple):
    """State: weights [..., R, N] and inverse correlation [..., N, N], both float64."""

    weight: Tensor
    inverse: Tensor


def rls_state(weight: Tensor, alpha: float = 1.0) -> RLS:
    """A state with these weights [..., R, N], in float64, and P_0 = I / alpha.

    Raises:
        ValueError: if alpha is not positive.
    """
    return RLS(weight.double(), reset_inverse(weight, alpha))


def reset_inverse(weight: Tensor, alpha: float = 1.0) -> Tensor:
    """P_0 = I / alpha, float64 [..., N, N] for weights [..., R, N].

    Raises:
        ValueError: if alpha is not positive.
    """
    if not alpha > 0:
        raise ValueError(f"alpha={alpha} must be positive")
    n = weight.shape[-1]
    eye = torch.eye(n, dtype=torch.float64, device=weight.device) / alpha
    return eye.expand(*weight.shape[:-2], n, n).clone()


def rls_step(
    state: RLS, x: Tensor, target: Tensor, gate: Tensor, forgetting: float = 1.0, stale_gain: bool = False
) -> tuple[RLS, Tensor]:
    """One sample.

    Args:
        state: weights and inverse.
        x: input [..., N].
        target: wanted outputs [..., R].
        gate: [...], 0 or 1: where it is 0 this lane's state stays as it is.
        forgetting: lambda in (0, 1].
        stale_gain: quirk of Nicola & Clopath's published code: the weights move by P x with P from before the sample,
            not by g.

    Returns:
        (state after the sample, output [..., R] before it), float64.
    """
    weight, inverse = state
    x, target = x.double(), target.double()
    output = (weight @ x[..., None])[..., 0]
    px = (inverse @ x[..., None])[..., 0]
    gain = px / (forgetting + (x * px).sum(-1, keepdim=True))
    moved = weight + (target - output)[..., None] * (px if stale_gain else gain)[..., None, :]
    after = (inverse - gain[..., None] * px[..., None, :]) / forgetting
    after = 0.5 * (after + after.transpose(-1, -2))
    learns = (gate > 0)[..., None, None]
    return RLS(torch.where(learns, moved, weight), torch.where(learns, after, inverse)), output


def rls_block_step(state: RLS, x: Tensor, target: Tensor, gate: Tensor, forgetting: float = 1.0) -> tuple[RLS, Tensor]:
    """`rls_step` over M samples at once: the same state after them, by one gain for the block.

    With samples discounted to the end of the block, X_k = lambda^((M - k) / 2) x_k, and P' = P / lambda^M,

        K = P' X (I + X' P' X)^-1,   W <- W + (Y - W X) K',   P <- P' - K X' P',

    which is a matrix product where M steps are M passes over P.

    Args:
        state: weights and inverse.
        x: inputs [..., M, N].
        target: wanted outputs [..., M, R].
        gate: [...], 0 or 1, one for the whole block.
        forgetting: lambda in (0, 1].

    Returns:
        (state after the samples, outputs [..., M, R] of the weights before them), float64.
    """
    weight, inverse = state
    x, target = x.double(), target.double()
    m = x.shape[-2]
    output = x @ weight.transpose(-1, -2)
    age = torch.arange(m - 1, -1, -1, dtype=torch.float64, device=x.device)
    root = (forgetting ** (age / 2))[:, None]
    inputs, error = root * x, root * (target - output)
    before = inverse / forgetting**m
    px = inputs @ before  # [..., M, N]; P is symmetric
    system = px @ inputs.transpose(-1, -2) + torch.eye(m, dtype=torch.float64, device=x.device)
    gain = torch.cholesky_solve(px, torch.linalg.cholesky(system))  # K', [..., M, N]
    after = before - px.transpose(-1, -2) @ gain
    after = 0.5 * (after + after.transpose(-1, -2))
    learns = (gate > 0)[..., None, None]
    moved = weight + error.transpose(-1, -2) @ gain
    return RLS(torch.where(learns, moved, weight), torch.where(learns, after, inverse)), output
