"""Measures of spiking activity: branching factor, kernel quality and statistics of rates and intervals.

Spike tensors are 0/1, [T, N], one recording, 1 ms a step; counts are [B, N]. Nothing here knows of a simulator.
Sources: Ivanov & Michmizos 2021 and their published scripts (branching factor, kernel quality).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["branching_factor", "firing_rate", "kernel_rank", "mean_branching_factor", "silent_fraction", "synchrony"]


def branching_factor(
    spikes: Tensor, source: Tensor, target: Tensor, start: int = 25, stop: int = 225, window: int = 4
) -> Tensor:
    """Mean ratio of descendant to ancestor spikes around each spike.

    For each spike of neuron n at start + window <= t < stop - window, ancestors are spikes of its presynaptic neurons in
    [t - window, t - 1], descendants those of its postsynaptic ones in [t + 1, t + window]; the ratio is
    descendants / max(ancestors, 1). Mean over a neuron's spikes, then over the neurons that fired. It ignores signs, weights, input drive and
    unrelated causes, so 1.0 is not a calibrated critical point.

    Args:
        spikes: 0/1 [T, N], liquid neurons only.
        source: int64 [E], presynaptic neuron of each liquid-to-liquid edge.
        target: int64 [E], postsynaptic neuron.
        start: first step used.
        stop: step after the last one used, at most T.
        window: in steps, at least 1.

    Returns:
        Scalar float64; NaN if no neuron fired inside the usable range.

    Raises:
        ValueError: if the range does not hold two windows inside the recording.

    Source: Ivanov & Michmizos 2021, `compute_branching_factor.py`.
    """
    if window < 1:
        raise ValueError(f"window={window} must be at least 1")
    if not 0 <= start < stop <= spikes.shape[0] or stop - start <= 2 * window:
        raise ValueError(f"start={start} and stop={stop} must enclose more than 2 * window={2 * window} of {spikes.shape[0]} steps")
    used = spikes[start:stop].double()
    sums = used.unfold(0, window, 1).sum(-1)  # [L - window + 1, N]: spikes in [t, t + window)
    at = used[window:-window]
    before, after = sums[: len(at)], sums[window + 1 : window + 1 + len(at)]
    ancestors = torch.zeros_like(at).index_add_(1, target, before[:, source])
    descendants = torch.zeros_like(at).index_add_(1, source, after[:, target])
    ratio = descendants / ancestors.clamp(min=1)
    fired = at.sum(0)
    per_neuron = (ratio * at).sum(0) / fired
    return per_neuron[fired > 0].mean()


def mean_branching_factor(spikes: Tensor, source: Tensor, target: Tensor, start: int = 25, stop: int = 225, window: int = 4) -> Tensor:
    """Mean over recordings [B, T, N] of `branching_factor`, those without a spike left out; NaN if none has one."""
    return torch.stack([branching_factor(s, source, target, start, stop, window) for s in spikes]).nanmean()


def kernel_rank(counts: Tensor) -> int:
    """Rank of a count matrix [B, N]: separation on different inputs (more is better), approximation on noisy copies (less is better).

    float32 and numpy's default tolerance, as in the published script. Ranks of good liquids saturate near N and discriminate little.
    """
    return int(torch.linalg.matrix_rank(counts.float()))


def silent_fraction(counts: Tensor) -> Tensor:
    """Fraction of neurons without a spike in any of the items, from counts [B, N]."""
    return (counts.sum(0) == 0).double().mean()


def firing_rate(counts: Tensor, duration_ms: float) -> Tensor:
    """Mean rate of each neuron in Hz, float64 [N], from counts [B, N] over `duration_ms`.

    Raises:
        ValueError: if the duration is not positive.
    """
    if duration_ms <= 0:
        raise ValueError(f"duration_ms={duration_ms} must be positive")
    return counts.double().mean(0) * 1000.0 / duration_ms


def synchrony(spikes: Tensor) -> Tensor:
    """Variance of the population's spike count per step over its value for independent neurons of the same rates, from [T, N].

    1 for independent neurons, above 1 for synchronous ones; NaN if nothing fired.
    """
    rate = spikes.double().mean(0)
    return spikes.double().sum(1).var(unbiased=False) / (rate * (1 - rate)).sum()
