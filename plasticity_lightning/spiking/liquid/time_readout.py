"""What a readout sees of a spike train: counts in time bins, and exponential traces at the end, all of them sums over time.

A feature is sum_t w_k(t) s_n(t) for one of K windows w_k: K = 1 window of ones is the plain spike count. The simulation is the same whatever
the windows are; only what is kept of it differs.

Source: exponential readout traces as in Maass, Natschlaeger & Markram 2002 (liquid states); bins are the usual refinement of a spike count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["time_windows", "windowed_counts"]


def time_windows(n_steps: int, n_bins: int = 1, taus: Sequence[float] = ()) -> Tensor:
    """The windows, bins first, then traces.

    Args:
        n_steps: T, steps of 1 ms, at least 1.
        n_bins: number of bins in [1, T]; their lengths differ by at most one step.
        taus: time constants of exponential traces that are read after the last step, in ms, positive and distinct.

    Returns:
        float32 [K, T] with K = n_bins + len(taus): 1 inside a bin; exp(-(T - 1 - t) / tau) of a trace.

    Raises:
        ValueError: if an argument is out of range.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} must be at least 1")
    if not 1 <= n_bins <= n_steps:
        raise ValueError(f"n_bins={n_bins} must lie in [1, {n_steps}], the steps of 1 ms that are counted")
    if any(tau <= 0 for tau in taus) or len(set(taus)) < len(taus):
        raise ValueError(f"taus={list(taus)} must be positive and distinct time constants in ms")
    step = torch.arange(n_steps)
    bins = step * n_bins // n_steps == torch.arange(n_bins)[:, None]
    before_end = (n_steps - 1 - step).double()
    traces = [torch.exp(-before_end / tau).float() for tau in taus]
    return torch.cat([bins.float(), *(trace[None] for trace in traces)])


def windowed_counts(spikes: Tensor, windows: Tensor) -> Tensor:
    """Features of recorded spikes.

    Args:
        spikes: 0/1, uint8 [B, T, N].
        windows: float32 [K, T] of `time_windows`.

    Returns:
        float32 [B, K * N], window after window; whole numbers for bins.

    Raises:
        ValueError: if the numbers of steps differ.
    """
    if spikes.shape[1] != windows.shape[1]:
        raise ValueError(f"spikes last {spikes.shape[1]} steps, the windows {windows.shape[1]}")
    features = [
        (windows @ sample.float()).flatten() for sample in spikes
    ]  # a sample at a time: as floats all would take four times the memory
    return torch.stack(features) if features else torch.zeros(0, windows.shape[0] * spikes.shape[2])
