"""Masks: which weights live. Exact selection, bit packing, and what a mask looks like from outside.

A mask is a bool tensor of the weight's shape [out, in, ...], True where a weight may live. Selections keep exactly n
entries and break ties by position (the lower index wins), so that equal inputs give equal masks on every device.

Source: Liu et al. 2021 (in-time over-parameterisation, the exploration rate).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "count",
    "dead_outputs",
    "density",
    "disconnected_units",
    "exploration_rate",
    "overlap",
    "pack",
    "top_n",
    "unpack",
    "unused_inputs",
]


def top_n(score: Tensor, n: int, candidates: Tensor | None = None) -> Tensor:
    """Mask of the n highest scores among the candidates; ties go to the lower index.

    Args:
        score: float tensor of any shape; NaN ranks below every number.
        n: how many to select, from 0 to the number of candidates.
        candidates: bool tensor of the same shape; None means all.

    Returns:
        Bool tensor of the shape of `score` with exactly n True.

    Raises:
        ValueError: if there are fewer than n candidates.

    Cost: one selection (no sort) over the candidates.
    """
    flat = score.detach().flatten()
    if not flat.is_floating_point():
        flat = flat.float()
    if candidates is not None:
        flat = flat[candidates.flatten()]
    available = flat.numel()
    if not 0 <= n <= available:
        raise ValueError(f"n={n} must lie between 0 and the {available} candidates")
    flat = torch.nan_to_num(flat, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    chosen = torch.ones_like(flat, dtype=torch.bool) if n == available else _select(flat, n)
    if candidates is None:
        return chosen.view(score.shape)
    return torch.zeros_like(candidates).masked_scatter_(candidates, chosen)


def count(mask: Tensor) -> int:
    """Number of living weights."""
    return int(mask.count_nonzero())


def density(masks: Iterable[Tensor]) -> float:
    """Living weights over all weights of the given masks, in [0, 1]; NaN without any."""
    sizes = [(count(mask), mask.numel()) for mask in masks]
    total = sum(size for _, size in sizes)
    return sum(living for living, _ in sizes) / total if total else math.nan


def overlap(mask: Tensor, previous: Tensor) -> float:
    """Share of the previously living weights that still live, in [0, 1]; NaN if none lived."""
    before = count(previous)
    return count(mask & previous) / before if before else math.nan


def exploration_rate(ever_active: Iterable[Tensor]) -> float:
    """R_s = weights that have lived at any time / all weights (Liu et al. 2021, in-time over-parameterisation)."""
    return density(ever_active)


def dead_outputs(mask: Tensor) -> Tensor:
    """Units [out] that receive no weight at all: their output is a constant."""
    return ~mask.flatten(1).any(1)


def unused_inputs(mask: Tensor, groups: int = 1) -> Tensor:
    """Input units [in] that no weight reads. With grouped convolutions `mask` is [out, in / groups, ...].

    Raises:
        ValueError: if the outputs cannot be divided into `groups`.
    """
    if mask.shape[0] % groups:
        raise ValueError(f"groups={groups} must divide the {mask.shape[0]} outputs")
    read = mask.flatten(2).any(2) if mask.ndim > 2 else mask
    return ~read.view(groups, mask.shape[0] // groups, mask.shape[1]).any(1).flatten()


def disconnected_units(incoming: Tensor, outgoing: Tensor, groups: int = 1) -> Tensor:
    """Units between two layers that cannot pass anything on: nothing comes in, or nothing reads them.

    Args:
        incoming: mask [units, in, ...] of the layer before.
        outgoing: mask [out, units / groups, ...] of the layer after.
        groups: of the layer after.

    Returns:
        Bool tensor [units].

    Raises:
        ValueError: if the layers do not fit each other.
    """
    unread = unused_inputs(outgoing, groups)
    if len(unread) != incoming.shape[0]:
        raise ValueError(f"{incoming.shape[0]} units come in, the next layer reads {len(unread)}")
    return dead_outputs(incoming) | unread


def pack(mask: Tensor) -> Tensor:
    """Eight entries a byte, for checkpoints: uint8 [ceil(numel / 8)] on the mask's device."""
    bits = mask.flatten()
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (bits.to(torch.uint8) * _powers(bits.device)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, shape: Iterable[int]) -> Tensor:
    """The mask that `pack` packed.

    Raises:
        ValueError: if the shape does not fit the number of bytes.
    """
    shape = tuple(shape)
    size = math.prod(shape)
    if packed.numel() != -(-size // 8):
        raise ValueError(f"{packed.numel()} bytes do not hold a mask of shape {shape}")
    bits = (packed[:, None] & _powers(packed.device)) != 0
    return bits.flatten()[:size].view(shape)


def _select(flat: Tensor, n: int) -> Tensor:
    if n == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    threshold = _nth_largest(flat, n)
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    chosen[ties[: n - count(chosen)]] = True
    return chosen


def _nth_largest(flat: Tensor, n: int) -> Tensor:
    if flat.device.type != "cpu" or flat.dtype == torch.bfloat16:
        return torch.kthvalue(flat, len(flat) - n + 1).values
    # numpy's introselect is several times as fast as torch's quickselect, which moves the indices along
    return torch.from_numpy(np.partition(flat.numpy(), len(flat) - n))[len(flat) - n]


def _powers(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
