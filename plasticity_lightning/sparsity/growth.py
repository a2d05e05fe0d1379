"""Which weights come (back)? Scores over the absent weights and exact growth.

Sources: Mocanu et al. 2018 (random), Dettmers & Zettlemoyer 2019 (momentum), Evci et al. 2020 (gradient).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from plasticity_lightning.sparsity.criteria import random
from plasticity_lightning.sparsity.masks import top_n
from plasticity_lightning.sparsity.structured import within_capacity

__all__ = ["GROWTH", "GrowName", "grow", "growth_score"]

GrowName = Literal["gradient", "momentum", "random", "none"]


def _absolute(weight: Tensor, signal: Tensor | None, generator: torch.Generator | None) -> Tensor:
    if signal is None:
        raise ValueError("growth by gradient or momentum needs that tensor")
    return signal.detach().abs()


def _random(weight: Tensor, signal: Tensor | None, generator: torch.Generator | None) -> Tensor:
    return random(weight, None, generator)


GROWTH: dict[GrowName, Callable[[Tensor, Tensor | None, torch.Generator | None], Tensor]] = {
    "gradient": _absolute,
    "momentum": _absolute,
    "random": _random,
}


def growth_score(
    name: GrowName, weight: Tensor, signal: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Score of every position; the highest among the absent ones grow.

    Args:
        name: `gradient` (|dense gradient|), `momentum` (|optimiser's running mean of it|) or `random`.
        weight: [out, in, ...], for its shape and device.
        signal: the gradient or the momentum, same shape.
        generator: for `random`.

    Raises:
        ValueError: if the name is unknown (`none` has no score), or what it needs was not given.
    """
    if name not in GROWTH:
        raise ValueError(f"grow must be one of {', '.join(get_args(GrowName))}, here without none; got {name!r}")
    return GROWTH[name](weight, signal, generator)


def grow(mask: Tensor, n: int, score: Tensor, limit: tuple[int, int] | None = None) -> Tensor:
    """Add the n absent positions with the highest score; ties go to the lower index.

    Args:
        mask: bool [out, in, ...]: what lives now, just dropped weights excluded (they may return).
        n: how many to add.
        score: of every position, same shape.
        limit: (n, m) of `structured.group_limit`: no group of m positions may hold more than n.

    Returns:
        The new mask, a superset of `mask` with exactly n more.

    Raises:
        ValueError: if there is no room for n more.
    """
    absent = ~mask
    if limit is not None:
        absent = within_capacity(mask, score, *limit)
    return mask | top_n(score, n, absent)
