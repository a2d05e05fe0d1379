"""Homeostasis of a readout's input.

Each neuron's activity relative to its own mean and deviation, then less what the population shares.

    z_i = (x_i - mean_i) / (sd_i + floor),   z_i <- z_i - mean over neurons of z,   xhat = z / sqrt(mean of |z|^2 over
    time)

so that <|xhat|^2> = 1 and a learning rate means the same for every reservoir. Statistics accumulate trial by trial,
as a cumulative average that is frozen when learning starts, or as a slow running average. A silent neuron gives 0,
never NaN; a silent reservoir has power 0 and gives 0 everywhere.

Shapes: x [L, T, N]: lanes, samples of a trial, neurons, in Hz. Source: an independent model, see
docs/papers/prediction_object.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Homeostasis", "deviation_scores", "pooled_moments"]


def pooled_moments(mean: Tensor, variance: Tensor, x: Tensor, share: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mean and variance after mixing in a trial that gets `share` of the weight.

    With share = 1 / n for the n-th of equally long trials these are the exact moments of all samples; a constant
    share is an exponential average.

    Args:
        mean: so far [L, N].
        variance: so far, population form [L, N].
        x: the trial's samples [L, T, N].
        share: in [0, 1], a number or broadcastable to [L, N].

    Returns:
        (mean, variance), both [L, N].
    """
    new_mean, new_variance = x.mean(1), x.var(1, correction=0)
    apart = new_mean - mean
    return mean + share * apart, (1 - share) * variance + share * new_variance + share * (1 - share) * apart**2


def deviation_scores(x: Tensor, mean: Tensor, variance: Tensor, floor: float, inhibition: bool = True) -> Tensor:
    """Scores [L, T, N] of samples [L, T, N].

    Deviation from the mean over (sd + floor), less the population's mean score if `inhibition`.
    """
    z = (x - mean[:, None]) / (variance.clamp(min=0).sqrt() + floor)[:, None]
    return z - z.mean(2, keepdim=True) if inhibition else z


class Homeostasis(nn.Module):
    """Running statistics of the input and the normalised input.

    Args:
        n_lanes: L, independent networks.
        n_neurons: N of each.
        floor: added to each deviation, positive, in the unit of the input (Hz): keeps nearly silent neurons quiet.
        inhibition: whether the population's mean is subtracted at each instant.
        tau: time constant of the running average in trials, at least 1; None averages over all trials so far.

    State: buffers `mean`, `variance` [L, N], `power` [L] (mean |z|^2), `trials` (how many were taken in).

    Raises:
        ValueError: if an argument is out of range.
    """

    mean: Tensor
    variance: Tensor
    power: Tensor
    trials: Tensor

    def __init__(
        self, n_lanes: int, n_neurons: int, floor: float = 2.0, inhibition: bool = True, tau: float | None = None
    ) -> None:
        super().__init__()
        for name, size in (("n_lanes", n_lanes), ("n_neurons", n_neurons)):
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if not floor > 0:
            raise ValueError(f"floor={floor} must be positive: a silent neuron's deviation is 0")
        if tau is not None and not tau >= 1:
            raise ValueError(f"tau={tau} must be at least 1 trial, or None for a cumulative average")
        self.floor, self.inhibition, self.tau = floor, inhibition, tau
        self.register_buffer("mean", torch.zeros(n_lanes, n_neurons))
        self.register_buffer("variance", torch.zeros(n_lanes, n_neurons))
        self.register_buffer("power", torch.zeros(n_lanes))
        self.register_buffer("trials", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, x: Tensor, lanes: slice = slice(None)) -> None:
        """Take in a trial [L, T, N] of these lanes."""
        share = 1 / (int(self.trials) + 1)
        if self.tau is not None:
            share = max(share, 1 / self.tau)  # cumulative until the window is full
        mean, variance = pooled_moments(self.mean[lanes], self.variance[lanes], x, share)
        self.mean[lanes], self.variance[lanes] = mean, variance
        scores = deviation_scores(x, mean, variance, self.floor, self.inhibition)
        power = scores.square().sum(2).mean(1)
        self.power[lanes] += share * (power - self.power[lanes])
        self.trials += 1

    def forward(self, x: Tensor, lanes: slice = slice(None)) -> Tensor:
        """Normalised input [L, T, N] of these lanes' samples [L, T, N]; 0 where nothing has ever varied."""
        scores = deviation_scores(x, self.mean[lanes], self.variance[lanes], self.floor, self.inhibition)
        power = self.power[lanes, None, None]
        return torch.where(power > 0, scores / power.clamp(min=torch.finfo(power.dtype).tiny).sqrt(), 0.0)
