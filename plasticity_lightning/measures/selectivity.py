"""What single neurons are selective for: time, cue, or their combination; and whether readouts share neurons.

Each neuron's condition means, cue by time, are split as in a two-way analysis of variance. A neuron with a share for
time x cue above that of 99 % of permutations of the cue labels over trials is mixed. `mixing_index` tells how evenly
a neuron serves two readouts.

Shapes: rates [n, T, N] of n trials, cue int64 [n]. Source: Rigotti et al. 2013 (mixed selectivity); definitions of an
independent model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["VarianceShares", "mixed_selectivity", "mixing_index", "variance_shares"]


class VarianceShares(NamedTuple):
    """Shares of the variance of the condition means, each float64 [N].

    They sum to 1, or are NaN for a neuron that never varies.
    """

    time: Tensor
    cue: Tensor
    interaction: Tensor


def variance_shares(rates: Tensor, cue: Tensor) -> VarianceShares:
    """Split the variance of each neuron's condition means into time, cue and time x cue.

    Args:
        rates: [n, T, N].
        cue: label of each trial, int64 [n].

    Raises:
        ValueError: if there is not one label a trial, or only one cue.
    """
    means = _condition_means(rates, cue)
    grand = means.mean((0, 1))
    by_time, by_cue = means.mean(0) - grand, means.mean(1) - grand
    rest = means - grand - by_time[None] - by_cue[:, None]
    parts = [by_time.square().mean(0), by_cue.square().mean(0), rest.square().mean((0, 1))]
    total = torch.stack(parts).sum(0)
    return VarianceShares(*(torch.where(total > 0, part / total, torch.nan) for part in parts))


def mixed_selectivity(
    rates: Tensor, cue: Tensor, generator: torch.Generator, permutations: int = 200, level: float = 0.99
) -> Tensor:
    """Whether a neuron's time x cue variance exceeds the `level` quantile of label permutations, bool [N].

    Args:
        rates: [n, T, N].
        cue: int64 [n].
        generator: of the permutations.
        permutations: how many, at least 1.
        level: in (0, 1).

    Raises:
        ValueError: as `variance_shares`, or if an argument is out of range.
    """
    if permutations < 1 or not 0 < level < 1:
        raise ValueError(f"permutations={permutations} must be at least 1 and level={level} in (0, 1)")

    def interaction(labels: Tensor) -> Tensor:
        means = _condition_means(rates, labels)
        rest = means - means.mean(0, keepdim=True) - means.mean(1, keepdim=True) + means.mean((0, 1))
        return rest.square().mean((0, 1))

    null = torch.stack([interaction(cue[torch.randperm(len(cue), generator=generator)]) for _ in range(permutations)])
    return interaction(cue) > null.quantile(level, 0)


def mixing_index(a: Tensor, b: Tensor) -> Tensor:
    """1 - |a - b| / (a + b) of two strengths [N], each divided by its mean first.

    1: a neuron serves both alike; 0: only one of them. NaN where both are 0.
    """
    a, b = a.abs() / a.abs().mean(), b.abs() / b.abs().mean()
    return 1 - (a - b).abs() / (a + b)


def _condition_means(rates: Tensor, cue: Tensor) -> Tensor:
    """[C, T, N] float64, one row a distinct label."""
    if rates.dim() != 3 or cue.shape != rates.shape[:1]:
        raise ValueError(f"rates must be [n, T, N] and cue [n], got {tuple(rates.shape)} and {tuple(cue.shape)}")
    labels = cue.unique()
    if len(labels) < 2:
        raise ValueError(f"cue holds {len(labels)} label(s); selectivity for cues needs at least 2")
    return torch.stack([rates[cue == label].double().mean(0) for label in labels])
