"""How many trials a prediction needs to follow a change of the world.

A criterion on the last five trials, so that one lucky trial does not count: **the smallest value there can be is the
window, 5**, not 1. A learner that never meets it gets infinity, so that medians over seeds stay defined; no trial at
all gives NaN.

Shapes: one value a trial of the switched cue, in order, [n] or [..., n]. Source: an independent model, see
docs/papers/prediction_object.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["trials_to_adapt_probability", "trials_to_adapt_timing"]


def trials_to_adapt_timing(errors: Tensor, tolerance_ms: float = 60.0, window: int = 5) -> Tensor:
    """First trial (from 1) at which the median of the last `window` |errors| [..., n] is below the tolerance.

    A NaN counts as infinite.
    """
    median = _windows(errors.abs().nan_to_num(torch.inf), window).median(-1).values
    return _first(median < tolerance_ms, errors.shape[-1], window)


def trials_to_adapt_probability(share: Tensor, probability: Tensor, tolerance: float = 0.15, window: int = 5) -> Tensor:
    """First trial (from 1) at which the mean of the last `window` shares [..., n] is near the new probability.

    A trial whose share is NaN (nothing was predicted) keeps its windows from counting.
    """
    mean = _windows(share, window).mean(-1)
    return _first((mean - probability[..., None]).abs() <= tolerance, share.shape[-1], window)


def _windows(values: Tensor, window: int) -> Tensor:
    """The last `window` values at each trial that has so many behind it, [..., n - window + 1, window]."""
    if window < 1:
        raise ValueError(f"window={window} must be at least 1 trial")
    if values.shape[-1] < window:
        return values.new_zeros(*values.shape[:-1], 0, window)
    return values.unfold(-1, window, 1)


def _first(met: Tensor, n_trials: int, window: int) -> Tensor:
    """Trial of the first window that meets the criterion, [...] float64."""
    if n_trials == 0:
        return torch.full(met.shape[:-1], torch.nan, dtype=torch.float64)
    if met.shape[-1] == 0:  # too few trials to tell
        return torch.full(met.shape[:-1], torch.inf, dtype=torch.float64)
    first = met.int().argmax(-1).double() + window
    return torch.where(met.any(-1), first, torch.inf)
