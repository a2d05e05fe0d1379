"""A learning rate that surprise raises: fast after the world has changed, slow while it stays.

`unsigned` surprise is the running size of the error (associability, Pearce & Hall 1980), one number a network. It
never falls to zero where outcomes are uncertain. `signed` surprise is the size of the error that is *expected*: one
more readout of the tag learns the signed error, which averages out while the prediction is right on average and does
not after a change, cue by cue.

Shapes: lanes in front, [...]; tag [..., N]. Source: an independent model, see docs/papers/prediction_object.md.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["associability_step", "expected_error_step", "surprised_rate"]


def associability_step(associability: Tensor, error: Tensor, decay: float) -> Tensor:
    """A <- a + decay (|error| - a), all [...]."""
    return associability + decay * (error.abs() - associability)


def expected_error_step(weight: Tensor, tag: Tensor, error: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """One delta step of the readout of the expected error.

    Args:
        weight: [..., N].
        tag: [..., N].
        error: signed, [...].
        decay: rate, in (0, 1].

    Returns:
        (weights after it, expected error [...] with them).
    """
    norm = tag.square().sum(-1) + 0.001
    moved = weight + (decay * (error - (weight * tag).sum(-1)) / norm)[..., None] * tag
    return moved, (moved * tag).sum(-1)


def surprised_rate(rate: float, surprise: Tensor, gain: float, threshold: float = 0.0, largest: float = 1.0) -> Tensor:
    """min(largest, rate (1 + gain [|surprise| - threshold]+)), [...]; never below `rate`."""
    return (rate * (1 + gain * (surprise.abs() - threshold).clamp(min=0))).clamp(max=max(rate, largest))
