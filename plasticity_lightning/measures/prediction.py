"""How well readouts predict: when, how strongly, and what is left where nothing comes.

All functions take signals [..., T] over the samples of a trial, with `time` [T] in ms after cue onset, and any
leading dimensions; latencies are in ms and broadcast to those dimensions. What is undefined (no trial, no sample, a
constant) is NaN, never an error in the middle of a run.

Source: definitions of an independent model, see docs/papers/prediction_object.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "LinearFit",
    "anticipation",
    "linear_fit",
    "off_time_activity",
    "outcome_share",
    "peak_amplitude",
    "peak_time",
    "prediction_object",
    "timing_error",
    "value_at",
]


class LinearFit(NamedTuple):
    """Pearson correlation, slope and intercept of y on x, each [...]."""

    r: Tensor
    slope: Tensor
    intercept: Tensor


def prediction_object(z_when: Tensor, z_what: Tensor) -> Tensor:
    """P_k(t) = [z_when(t)]+ [z_k(t)]+: p(event at t) times p(k | event).

    Args:
        z_when: [..., T].
        z_what: [..., K, T].

    Returns:
        [..., K, T], at least 0.
    """
    return z_when.clamp(min=0)[..., None, :] * z_what.clamp(min=0)


def peak_time(signal: Tensor, time: Tensor, start_ms: float = 80.0, stop_ms: float = 1000.0) -> Tensor:
    """Time of the largest sample in [start, stop), [...]; NaN where the signal is constant there, for it has no peak.

    Raises:
        ValueError: if no sample lies in the window.
    """
    inside = _inside((time >= start_ms) & (time < stop_ms), f"[{start_ms}, {stop_ms})")
    part = signal[..., inside]
    peak = time[inside][part.argmax(-1)]
    flat = (part == part[..., :1]).all(-1) | ~part.isfinite().all(-1)
    return torch.where(flat, torch.nan, peak)


def timing_error(peak: Tensor, latency: Tensor) -> Tensor:
    """Mean of |peak - nearest latency| over everything that is not NaN; NaN if nothing is left.

    Args:
        peak: ms [...].
        latency: ms, broadcastable to [...], or [..., M] for several possible latencies (NaN behind the last).
    """
    apart = (peak[..., None] - latency).abs() if latency.dim() > peak.dim() else (peak - latency).abs()[..., None]
    nearest = apart.nan_to_num(torch.inf).amin(-1)
    return nearest[nearest.isfinite()].mean()  # the mean of nothing is NaN


def anticipation(signal: Tensor, time: Tensor, latency: Tensor) -> Tensor:
    """How long before the latency the signal last rises through half of its maximum, in ms [...].

    The maximum is that within 75 ms of the latency. Positive: it anticipates. NaN if the maximum is not positive or
    nothing in the trial lies below its half.
    """
    near = (time - latency[..., None]).abs() <= 75.0
    top, at = torch.where(near, signal, -torch.inf).max(-1, keepdim=True)
    index = torch.arange(signal.shape[-1], device=signal.device)
    below = (signal < top / 2) & (index < at)
    last = torch.where(below, index, -1).amax(-1)
    rise = time[(last + 1).clamp(max=len(time) - 1)]
    return torch.where((last >= 0) & (top[..., 0] > 0), latency - rise, torch.nan)


def peak_amplitude(signal: Tensor, time: Tensor, latency: Tensor, half_width_ms: float = 75.0) -> Tensor:
    """Largest value within `half_width_ms` of the latency, [...]; NaN where no sample lies there."""
    near = (time - latency[..., None]).abs() <= half_width_ms
    top = torch.where(near, signal, -torch.inf).amax(-1)
    return torch.where(near.any(-1), top, torch.nan)


def value_at(signal: Tensor, time: Tensor, at: Tensor) -> Tensor:
    """The last sample at or before `at` (ms, broadcast to [...]), [...]; NaN where there is none.

    At the onset of an outcome this is the last value that the outcome cannot have influenced.
    """
    index = (time <= at[..., None]).sum(-1) - 1
    shape = torch.broadcast_shapes(signal.shape[:-1], index.shape)
    index, signal = index.expand(shape), signal.expand(*shape, -1)
    value = signal.gather(-1, index.clamp(min=0)[..., None])[..., 0]
    return torch.where(index >= 0, value, torch.nan)


def off_time_activity(
    signal: Tensor,
    time: Tensor,
    latencies: Tensor,
    distance_ms: float = 150.0,
    start_ms: float = 80.0,
    stop_ms: float = 1000.0,
) -> Tensor:
    """Largest value in [start, stop) farther than `distance_ms` from every latency [..., M] (NaN: none), [...].

    NaN if no sample is.
    """
    far = ((time[:, None] - latencies[..., None, :]).abs().nan_to_num(torch.inf) > distance_ms).all(-1)
    far = far & (time >= start_ms) & (time < stop_ms)
    top = torch.where(far, signal, -torch.inf).amax(-1)
    return torch.where(far.any(-1), top, torch.nan)


def outcome_share(amplitude: Tensor) -> Tensor:
    """Each outcome's share of the prediction, from amplitudes [..., K].

    Negative ones count as 0, NaN where all are.
    """
    positive = amplitude.clamp(min=0)
    return positive / positive.sum(-1, keepdim=True)


def linear_fit(x: Tensor, y: Tensor) -> LinearFit:
    """Least-squares line of y [..., n] on x [n] or [..., n]; pairs with a NaN are left out.

    NaN where x or y does not vary.
    """
    x, y = torch.broadcast_tensors(x.double(), y.double())
    valid = x.isfinite() & y.isfinite()
    n = valid.sum(-1, keepdim=True)
    dx = torch.where(valid, x - torch.where(valid, x, 0).sum(-1, keepdim=True) / n, 0)
    dy = torch.where(valid, y - torch.where(valid, y, 0).sum(-1, keepdim=True) / n, 0)
    xx, yy, xy = dx.square().sum(-1), dy.square().sum(-1), (dx * dy).sum(-1)
    tiny = 1e-24  # what rounding leaves of a constant
    slope = torch.where(xx > tiny, xy / xx, torch.nan)
    r = torch.where((xx > tiny) & (yy > tiny), xy / (xx * yy).sqrt(), torch.nan)
    mean_x, mean_y = torch.where(valid, x, 0).sum(-1) / n[..., 0], torch.where(valid, y, 0).sum(-1) / n[..., 0]
    return LinearFit(r, slope, mean_y - slope * mean_x)


def _inside(mask: Tensor, window: str) -> Tensor:
    if not bool(mask.any()):
        raise ValueError(f"no sample of time lies in {window} ms")
    return mask
