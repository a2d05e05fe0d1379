"""Normalised least mean squares: the delta rule with a step that no input can make unstable.

Each output r of each lane moves its weight row by eta g (y - w . x) x / max(power, |x|^2), where `power` is the usual
|x|^2. Below it the rule is plain LMS; above it, right after a cue, the step is that of normalised LMS, which is
stable for eta < 2.

Shapes: weight [..., R, N], x [..., N], target [..., R], gate [...] or [..., R]. Source: Widrow & Hoff 1960; Nagumo &
Noda 1967 (normalisation).
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["lms_step", "normalised_step"]


def lms_step(
    weight: Tensor, x: Tensor, target: Tensor, gate: Tensor, eta: float = 0.4, power: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One sample.

    Args:
        weight: the state, [..., R, N].
        x: input [..., N].
        target: wanted outputs [..., R].
        gate: 0 to 1, [..., R] or broadcastable to it; 0 leaves the weights alone.
        eta: learning rate, positive; 1 removes the whole error on this input.
        power: floor of the normaliser, positive: the mean of |x|^2.

    Returns:
        (weights after the sample, output [..., R] before it).
    """
    output = (weight @ x[..., None])[..., 0]
    return weight + normalised_step(x, gate * (target - output), eta, power), output


def normalised_step(x: Tensor, error: Tensor, eta: float, power: float) -> Tensor:
    """Weight change [..., R, N] by an error [..., R] on an input [..., N]: eta error x / max(power, |x|^2)."""
    scale = eta / x.square().sum(-1, keepdim=True).clamp(min=power)
    return (scale * error)[..., None] * x[..., None, :]
