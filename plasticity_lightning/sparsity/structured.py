"""Masks that hardware can use: N:M sparsity and constant fan-in, as limits on groups of positions.

Both are one rule, "at most n living weights in each group of m": for N:M a group is m consecutive inputs of one output
(of one kernel position in a convolution), for constant fan-in all inputs of one output. Growth that keeps within the
limits (`within_capacity`) then works for both.

Sources: Mishra et al. 2021 (2:4 sparsity), Lasby et al. 2024 (SRigL, constant fan-in).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["fan_in_limit", "group_limit", "is_n_m", "limit_mask", "parse_structure", "within_capacity"]


def parse_structure(structure: str) -> tuple[int, int] | None:
    """(n, m) of "n:m"; None for "fan_in".

    Raises:
        ValueError: if it is neither, or not 0 < n < m.
    """
    if structure == "fan_in":
        return None
    match = re.fullmatch(r"(\d+):(\d+)", structure)
    if match is None or not 0 < int(match[1]) < int(match[2]):
        raise ValueError(f"structure must be 'fan_in' or 'N:M' with 0 < N < M, such as '2:4'; got {structure!r}")
    return int(match[1]), int(match[2])


def group_limit(shape: Sequence[int], n: int, m: int) -> tuple[int, int]:
    """The limit (n, m), after the check that the inputs can be divided into groups of m.

    Raises:
        ValueError: if they cannot.
    """
    if shape[1] % m:
        raise ValueError(f"{n}:{m} sparsity needs the inputs in groups of {m}; shape {tuple(shape)} has {shape[1]}")
    return n, m


def fan_in_limit(shape: Sequence[int], n_living: int) -> tuple[int, int]:
    """The limit (k, inputs) that gives each output the same fan-in k, the closest to `n_living` in total, at least 1."""
    fan_in = 1
    for size in shape[1:]:
        fan_in *= size
    return min(fan_in, max(1, round(n_living / shape[0]))), fan_in


def limit_mask(score: Tensor, n: int, m: int, candidates: Tensor | None = None) -> Tensor:
    """The n highest candidates of each group of m.

    Args:
        score: [out, in, ...].
        n: largest number of living weights in a group.
        m: size of the groups: a divisor of `in`, or all inputs of one output (in * kernel).
        candidates: bool, same shape; None means all. A group with fewer than n keeps them all.

    Returns:
        Bool tensor of the same shape; ties go to the lower index.

    Raises:
        ValueError: if m does not fit the shape.
    """
    groups, restore = _groups(score, m)
    allowed = torch.ones_like(groups, dtype=torch.bool) if candidates is None else _groups(candidates, m)[0]
    return restore(allowed & (_rank(groups, allowed) < n))


def within_capacity(mask: Tensor, score: Tensor, n: int, m: int) -> Tensor:
    """Absent positions that could all be grown at once without more than n living weights in a group of m.

    In each group with c free places these are the c absent positions of highest score.
    """
    living, restore = _groups(mask, m)
    scores, _ = _groups(score, m)
    capacity = (n - living.sum(1, keepdim=True)).clamp(min=0)
    return restore(~living & (_rank(scores, ~living) < capacity))


def is_n_m(mask: Tensor, n: int, m: int) -> bool:
    """Whether no group of m consecutive inputs holds more than n living weights; False if m does not divide them."""
    if mask.shape[1] % m:
        return False
    return bool((_groups(mask, m)[0].sum(1) <= n).all())


def _groups(tensor: Tensor, m: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Rows [groups, m], and the function that brings rows back to the shape."""
    shape = tensor.shape
    if shape[1:].numel() == m:
        return tensor.flatten(1), lambda rows: rows.view(shape)
    if shape[1] % m:
        raise ValueError(f"groups of {m} do not fit the inputs of shape {tuple(shape)}")
    last = tensor.movedim(1, -1)
    return last.reshape(-1, m), lambda rows: rows.view(last.shape).movedim(-1, 1).contiguous()


def _rank(rows: Tensor, allowed: Tensor) -> Tensor:
    """Position of every entry among the allowed ones of its row, highest first, stable; the others come last."""
    keyed = torch.nan_to_num(rows.detach().float(), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = keyed.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, (~allowed).gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
