"""Statistics of spike trains: how much, how irregular, how synchronous, and how far one spike spreads.

Pure functions of 0/1 tensors [T, N] (one recording) or [T, B, N] (B recordings of N neurons), or of spike counts [S,
N] (S recordings or counting windows). Nothing here knows a neuron model; the layer that fired may be a liquid, a
convolutional spiking layer flattened to units, or a recording. Rates are in Hz, times in steps.

Sources: each function names its own. The branching factor is that of Ivanov & Michmizos 2021, as their published
script computes it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "RateSummary",
    "branching_factor",
    "fano",
    "firing_rate",
    "isi_cv",
    "participation_ratio",
    "rate_cv",
    "rate_summary",
    "silent",
    "spike_counts",
    "synchrony",
]


def branching_factor(
    spikes: Tensor, pre: Tensor, post: Tensor, start: int = 25, stop: int = 225, window: int = 4
) -> Tensor:
    """Mean ratio of descendant to ancestor spikes around each spike.

    For every spike of neuron n at t, start + window <= t < stop - window: descendants are the spikes of n's
    postsynaptic neurons in [t + 1, t + window], ancestors those of its presynaptic neurons in [t - window, t - 1];
    the ratio is descendants / max(ancestors, 1). Averaged over the spikes of each neuron, then over the neurons that
    have such a spike. For several recordings average the results.

    Args:
        spikes: 0/1 tensor [T, N], one recording, time step 1 ms, T >= stop.
        pre: presynaptic neuron of each connection, integer tensor [E], values in 0..N-1. A connection given twice
            counts once.
        post: postsynaptic neuron of each connection, [E].
        start: first step of the usable part of the recording.
        stop: end (exclusive) of the usable part.
        window: in time steps, at least 1.

    Returns:
        Scalar float64 tensor, at least 0; NaN if no neuron fired in the usable range.

    Raises:
        ValueError: if shapes disagree, an index is outside 0..N-1, or the range does not hold one spike with both its
            windows.

    Misleads: signs, weights, input drive and common causes are ignored, so 1.0 is not a calibrated critical point.
    Cost: two sparse products of E x (stop - start) multiply-adds.
    Source: Ivanov & Michmizos 2021, their `compute_branching_factor.py` (25..225 ms of a 250 ms sample, window 4 ms).
    """
    if spikes.ndim != 2:
        raise ValueError(f"spikes must be [T, N], one recording; its shape is {tuple(spikes.shape)}")
    if pre.ndim != 1 or pre.shape != post.shape:
        raise ValueError(
            f"pre and post must be edge lists of one length; shapes {tuple(pre.shape)}, {tuple(post.shape)}"
        )
    if window < 1:
        raise ValueError(f"window={window} must be at least 1 step")
    if not (start >= 0 and stop <= spikes.shape[0] and stop - start > 2 * window):
        raise ValueError(
            f"start={start}, stop={stop}, window={window}: need start >= 0, stop <= T={spikes.shape[0]} "
            "and stop - start > 2 * window"
        )
    n_neurons = spikes.shape[1]
    edges = torch.stack([post, pre]).to(device=spikes.device, dtype=torch.long)
    if edges.numel() and not (int(edges.min()) >= 0 and int(edges.max()) < n_neurons):
        raise ValueError(
            f"pre and post must lie in 0..{n_neurons - 1}; they span {int(edges.min())}..{int(edges.max())}"
        )
    edges = torch.unique(edges, dim=1)

    train = spikes[start:stop].to(torch.float32)
    # earlier[t] = spikes in [0, t): counts stay far below 2**24, so float32 is exact
    earlier = torch.cat([train.new_zeros(1, n_neurons), train.cumsum(0)])
    usable = torch.arange(window, stop - start - window, device=spikes.device)
    before = earlier[usable] - earlier[usable - window]
    after = earlier[usable + 1 + window] - earlier[usable + 1]

    ones = torch.ones(edges.shape[1], device=spikes.device)
    incoming = torch.sparse_coo_tensor(edges, ones, (n_neurons, n_neurons), check_invariants=False).coalesce()
    outgoing = torch.sparse_coo_tensor(edges.flip(0), ones, (n_neurons, n_neurons), check_invariants=False).coalesce()
    ancestors = torch.sparse.mm(incoming, before.T)  # [N, steps]
    descendants = torch.sparse.mm(outgoing, after.T)

    fired = train[usable].T.double()
    n_spikes = fired.sum(1)
    ratio_sum = (fired * descendants.double() / ancestors.double().clamp(min=1)).sum(1)
    return (ratio_sum / n_spikes)[n_spikes > 0].mean()


def spike_counts(spikes: Tensor) -> Tensor:
    """Spikes per recording and neuron: [T, B, N] -> [B, N], or [T, N] -> [1, N], int64."""
    if spikes.ndim not in (2, 3):
        raise ValueError(f"spikes must be [T, N] or [T, B, N]; its shape is {tuple(spikes.shape)}")
    counts = spikes.sum(0, dtype=torch.int64)
    return counts if spikes.ndim == 3 else counts.unsqueeze(0)


def silent(counts: Tensor) -> Tensor:
    """Fraction of neurons without a single spike in any recording of `counts` [S, N]; in [0, 1], float64.

    Misleads: shrinks with the number and length of the recordings, so fix both.
    """
    return (_counts(counts).sum(0) == 0).double().mean()


def firing_rate(counts: Tensor, duration: float) -> Tensor:
    """Firing rates in Hz of `counts` (any shape), each counted over `duration` ms (> 0); float64, same shape."""
    if not duration > 0:
        raise ValueError(f"duration={duration} must be positive, in ms")
    return counts.double() * (1000.0 / duration)


class RateSummary(NamedTuple):
    """Distribution of rates over neurons, all float64 and in Hz except the histogram (neurons per bin, int64)."""

    mean: Tensor
    quantiles: Tensor
    histogram: Tensor
    bin_edges: Tensor


def rate_summary(
    rates: Tensor, quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95), n_bins: int = 32
) -> RateSummary:
    """Mean, quantiles and histogram over neurons of the rates [N] (Hz).

    The bins are equal, from 0 to the largest rate (1 Hz if all are silent).
    """
    if rates.ndim != 1 or not rates.numel():
        raise ValueError(f"rates must be a non-empty [N]: average over recordings first; shape {tuple(rates.shape)}")
    rates = rates.double()
    top = float(rates.max()) or 1.0
    edges = torch.linspace(0.0, top, n_bins + 1, dtype=torch.float64, device=rates.device)
    # a rate on an inner edge belongs to the bin above it, the largest to the last bin
    index = torch.bucketize(rates, edges[1:-1], right=True)
    at = torch.tensor(quantiles, dtype=torch.float64, device=rates.device)
    return RateSummary(rates.mean(), torch.quantile(rates, at), torch.bincount(index, minlength=n_bins), edges)


def rate_cv(counts: Tensor) -> Tensor:
    """Coefficient of variation across neurons of the mean rate.

    Population std / mean of the column means of `counts` [S, N].
    0 for equal rates, sqrt(N - 1) when one neuron fires alone; NaN if all are silent. The unit of the rate cancels.
    """
    mean = _counts(counts).double().mean(0)
    return mean.std(correction=0) / mean.mean()


def isi_cv(spikes: Tensor, min_spikes: int = 3) -> Tensor:
    """Mean coefficient of variation of the inter-spike intervals, over trains with at least `min_spikes` spikes.

    A train is one neuron in one recording of `spikes` [T, N] or [T, B, N]; its CV is population std / mean of its
    intervals: 0 for a clock, about 1 for a Poisson train, above 1 for bursts.

    Returns:
        Scalar float64; NaN if no train has enough spikes.

    Misleads: intervals longer than the recording are never seen, which lowers the CV of slow neurons; a refractory
    period lowers it too.
    """
    if min_spikes < 3:
        raise ValueError(f"min_spikes={min_spikes} must be at least 3: two intervals are the fewest that can vary")
    if spikes.ndim not in (2, 3):
        raise ValueError(f"spikes must be [T, N] or [T, B, N]; its shape is {tuple(spikes.shape)}")
    trains = spikes.flatten(1).T  # [B * N, T]: row-major nonzero sorts by train, then time
    train, time = trains.nonzero(as_tuple=True)
    same = train[1:] == train[:-1]
    interval = (time[1:] - time[:-1])[same].double()
    owner = train[1:][same]
    zeros = torch.zeros(trains.shape[0], dtype=torch.float64, device=spikes.device)
    n = zeros.index_add(0, owner, torch.ones_like(interval))
    mean = zeros.index_add(0, owner, interval) / n
    variance = zeros.index_add(0, owner, (interval - mean[owner]) ** 2) / n
    return (variance.sqrt() / mean)[n >= min_spikes - 1].mean()


def fano(counts: Tensor) -> Tensor:
    """Mean over neurons of variance / mean of the spike count across recordings, or windows: `counts` [S >= 2, N].

    Unbiased variance: 1 in expectation for a Poisson process whatever S, 0 for a clock. Neurons silent throughout are
    left out.

    Returns:
        Scalar float64; NaN if all neurons are silent.

    Misleads: across different stimuli it measures tuning, not noise; use repeats of one stimulus, or windows of one
    recording.
    """
    if _counts(counts).shape[0] < 2:
        raise ValueError(f"counts must hold at least 2 recordings; its shape is {tuple(counts.shape)}")
    variance, mean = torch.var_mean(counts.double(), dim=0, correction=1)
    return (variance / mean)[mean > 0].mean()


def synchrony(spikes: Tensor) -> Tensor:
    """Variance in time of the population count over its expectation for independent neurons of the same rates.

    chi = Var_t[sum_n s_n(t)] / sum_n Var_t[s_n(t)], averaged over recordings: 1 for independent neurons, N when all
    fire together, below 1 when they avoid each other. N times the squared synchrony index of Golomb & Rinzel 1994.

    Args:
        spikes: [T, N] or [T, B, N], T >= 2.

    Returns:
        Scalar float64 in [0, N]; recordings in which no neuron varies are left out, NaN if none is left.

    Misleads: a common drive in time (the stimulus) counts as synchrony; the time step sets the scale on which spikes
    coincide.
    """
    if spikes.ndim not in (2, 3) or spikes.shape[0] < 2:
        raise ValueError(f"spikes must be [T, N] or [T, B, N] with T >= 2; its shape is {tuple(spikes.shape)}")
    if spikes.ndim == 3:  # one recording at a time: they are kept as bytes, and the arithmetic needs eight times more
        return torch.stack([synchrony(recording) for recording in spikes.unbind(1)]).nanmean()
    train = spikes.double()
    observed = train.sum(-1).var(0, correction=0).reshape(-1)
    expected = train.var(0, correction=0).sum(-1).reshape(-1)
    return (observed / expected)[expected > 0].mean()


def participation_ratio(rates: Tensor) -> Tensor:
    """Number of dimensions over which the rates [S, N] vary, (sum_i l_i)^2 / sum_i l_i^2.

    l are the eigenvalues of the covariance of `rates`.
    Computed as tr(C)^2 / tr(C C) on the smaller of the two Gram matrices. In [1, min(S - 1, N)]; 0 if nothing varies.

    Misleads: bounded by the number of recordings; a few neurons with large rates dominate it.
    Source: Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement".
    """
    if rates.ndim != 2 or rates.shape[0] < 2:
        raise ValueError(f"rates must be [S, N] with S >= 2; its shape is {tuple(rates.shape)}")
    centred = rates.double() - rates.double().mean(0)
    gram = centred @ centred.T if rates.shape[0] <= rates.shape[1] else centred.T @ centred
    power = (gram**2).sum()
    return torch.where(power > 0, gram.trace() ** 2 / power, torch.zeros_like(power))


def _counts(counts: Tensor) -> Tensor:
    if counts.ndim != 2 or not counts.numel():
        raise ValueError(f"counts must be a non-empty [S, N]; its shape is {tuple(counts.shape)}")
    return counts
