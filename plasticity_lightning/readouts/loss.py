"""The readout's loss: cross-entropy against softened one-hot targets, with a tiny weight penalty.

The target of an item is softmax of its +1/-1 one-hot vector: for 10 classes 0.4508 for the true one and 0.0610 for
each other. The penalty l2 / 2 * ||W||^2 leaves the bias out. Logits and targets are [M, K].

Source: Ivanov & Michmizos 2021 (NALSM), readout of the published code.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["soft_cross_entropy", "soft_targets", "weight_penalty"]


def soft_targets(labels: Tensor, n_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Softmax of the +1/-1 one-hot code of each label.

    Args:
        labels: int64 [M], in [0, n_classes).
        n_classes: at least 2.
        dtype: of the result, floating point.

    Returns:
        [M, n_classes]; rows sum to 1.

    Raises:
        ValueError: if n_classes is below 2 or a label is out of range.
    """
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}.")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < n_classes):
        raise ValueError(f"labels must lie in [0, {n_classes}), got {int(labels.min())}..{int(labels.max())}.")
    one_hot = torch.nn.functional.one_hot(labels.long(), n_classes).to(dtype)
    return torch.softmax(2.0 * one_hot - 1.0, dim=1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over items of -sum_k target_k * log softmax(logits)_k; both [M, K]; returns a scalar.

    Raises:
        ValueError: if the shapes differ.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape [M, K].")
    return -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()


def weight_penalty(weight: Tensor, l2: float) -> Tensor:
    """l2 / 2 * ||weight||^2 as a scalar; the bias is not penalised."""
    return 0.5 * l2 * weight.square().sum()
