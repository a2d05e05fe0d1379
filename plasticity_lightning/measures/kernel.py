"""Kernel quality of a reservoir: does it separate different inputs while mapping similar ones together?

The separation rank is the rank of the spike counts of many different inputs, the approximation rank that of noisy
versions of inputs; a good liquid has a high separation and a low approximation rank. Input: counts [M, N], M items by
N neurons, and their labels [M].

Sources: Maass, Legenstein & Bertschinger 2004 (the idea); Ivanov & Michmizos 2021 and their published script
(100 random test items a class, mean over 1000 draws, min-max rescaling over all models).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["approximation_rank", "balanced_draws", "count_rank", "kernel_quality", "separation_rank"]


def count_rank(counts: Tensor) -> Tensor:
    """Numerical rank of the counts [M, N] in float32, int64.

    Counted are singular values above max(M, N) * eps * largest, which is numpy's default.
    """
    if counts.ndim != 2 or not counts.numel():
        raise ValueError(f"counts must be a non-empty [M, N]; its shape is {tuple(counts.shape)}")
    return torch.linalg.matrix_rank(counts.float())


def separation_rank(
    counts: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    per_class: int = 100,
    draws: int = 1000,
) -> Tensor:
    """Mean rank of the counts of `per_class` random items of each class, over `draws` draws.

    Args:
        counts: spike counts [M, N] of *clean* inputs.
        labels: class of each item, [M].
        generator: of the random draws (on the CPU).
        per_class: items of each class in a draw, without replacement.
        draws: number of draws.

    Returns:
        Scalar float64 in [0, min(per_class * classes, N)].

    Raises:
        ValueError: if a class has fewer than `per_class` items, or shapes disagree.

    Misleads: ranks of 1000 items saturate near 990 for almost every liquid of 1000 neurons, so the measure hardly
    discriminates.
    Cost: one singular value decomposition of [per_class * classes, N] a draw.
    """
    ranks = [count_rank(counts[items]) for items in balanced_draws(labels, generator, per_class, draws, len(counts))]
    return torch.stack(ranks).double().mean()


def approximation_rank(
    noisy_counts: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    per_class: int = 100,
    draws: int = 1000,
) -> Tensor:
    """The same mean rank on the counts [M, N] of *noisy* inputs; lower is better (Ivanov & Michmizos 2021).

    The noise is the caller's: for MNIST a Gaussian of standard deviation 125 on the 0..255 pixels, clipped, then
    encoded; for N-MNIST one shift in time a sample, N(0, 10 ms), reflected at both ends.
    """
    return separation_rank(noisy_counts, labels, generator, per_class, draws)


def kernel_quality(separation: Tensor, approximation: Tensor) -> Tensor:
    """Rescaled difference of the two ranks over the models that are compared.

        quality = rescale(rescale(SP) - rescale(AP)),  rescale(x) = (x - min x) / (max x - min x)

    Args:
        separation: separation ranks of all models and data sets that are compared, [K], K >= 2.
        approximation: their approximation ranks, [K].

    Returns:
        [K] float64 in [0, 1]: 1 for the best of these models, 0 for the worst.

    Raises:
        ValueError: if shapes disagree or all models tie, where a rescaling to [0, 1] does not exist.

    Misleads: relative to the set of models; adding one model changes the value of every other. Quote the raw ranks
    with it.
    """
    if separation.ndim != 1 or separation.shape != approximation.shape or len(separation) < 2:
        raise ValueError(
            "separation and approximation must be [K], K >= 2 models; "
            f"shapes {tuple(separation.shape)}, {tuple(approximation.shape)}"
        )
    difference = _rescaled(separation, "separation") - _rescaled(approximation, "approximation")
    return _rescaled(difference, "separation - approximation")


def balanced_draws(
    labels: Tensor, generator: torch.Generator, per_class: int, draws: int, n_items: int | None = None
) -> list[Tensor]:
    """Indices [per_class * classes] of `draws` random class-balanced subsets, each without replacement."""
    if labels.ndim != 1 or (n_items is not None and len(labels) != n_items):
        raise ValueError(f"labels must be [M] with M={n_items} items; its shape is {tuple(labels.shape)}")
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1")
    classes = [(labels == label).nonzero().flatten() for label in labels.unique()]
    smallest = min(len(members) for members in classes)
    if not 1 <= per_class <= smallest:
        raise ValueError(f"per_class={per_class} must lie in 1..{smallest}, the size of the smallest class")
    return [
        torch.cat(
            [
                members[torch.randperm(len(members), generator=generator)[:per_class].to(members.device)]
                for members in classes
            ]
        )
        for _ in range(draws)
    ]


def _rescaled(values: Tensor, name: str) -> Tensor:
    values = values.double()
    low, high = values.min(), values.max()
    if not high > low:
        raise ValueError(f"{name} is {float(low)} for every model: nothing to rescale")
    return (values - low) / (high - low)
