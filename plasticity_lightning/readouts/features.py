"""From liquid spike counts to readout features.

A feature is a neuron's share of the item's spikes, counts / sum(counts), [M, N]. The original then divides by the
largest feature of the *current batch* of 250, so a feature depends on which items share its batch; one constant
computed on the training set is the clean variant. The original also divides 0 by 0 for an item without spikes, and
the NaN spreads to every weight: here such an item is a zero row, and `silent_items` says how many there are.

Source: Ivanov & Michmizos 2021 (NALSM), readout of the published code.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["batch_max_scale", "feature_scale", "normalise_counts", "silent_items"]


def _check_counts(counts: Tensor) -> None:
    if counts.dim() != 2:
        raise ValueError(f"counts must be [M, N] (items, neurons), got shape {tuple(counts.shape)}.")


def normalise_counts(counts: Tensor) -> Tensor:
    """Each neuron's share of its item's spikes.

    Args:
        counts: spikes per item and neuron [M, N], or any features that are at least 0; integer or float.

    Returns:
        float32 [M, N]; rows sum to 1, except that an item with no spike gives a row of zeros.

    Raises:
        ValueError: if counts is not two-dimensional.
    """
    _check_counts(counts)
    values = counts.to(torch.float32)
    total = values.sum(dim=1, keepdim=True)
    return values / torch.where(total > 0, total, torch.ones_like(total))


def silent_items(counts: Tensor) -> int:
    """Number of items [M, N] in which no neuron fired.

    Raises:
        ValueError: if counts is not two-dimensional.
    """
    _check_counts(counts)
    return int((counts.sum(dim=1) == 0).sum())


def feature_scale(features: Tensor) -> float:
    """The constant to divide features of every split by: their largest value in the training set.

    Raises:
        ValueError: if no feature is positive (every training item is silent).
    """
    largest = float(features.max())
    if not largest > 0:
        raise ValueError(f"features need a positive maximum to scale by, got {largest}: every item is silent.")
    return largest


def batch_max_scale(features: Tensor, batch_size: int = 250) -> Tensor:
    """Divide each consecutive batch by its own largest feature, as the original does.

    The paper's quirk: the value of a feature then depends on the other items of its batch, on test data too. A batch
    without any spike stays zero.

    Args:
        features: [M, N], at least 0, in the fixed order of the data set.
        batch_size: items per batch, at least 1; the last batch may be smaller.

    Returns:
        Scaled features [M, N].

    Raises:
        ValueError: if batch_size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    scaled = torch.empty_like(features)
    for start in range(0, len(features), batch_size):
        batch = features[start : start + batch_size]
        largest = batch.max()
        scaled[start : start + batch_size] = batch / torch.where(largest > 0, largest, torch.ones_like(largest))
    return scaled
