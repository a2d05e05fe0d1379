"""Which weights come (back)? Scores over the absent weights and exact growth.

Sources: Mocanu et al. 2018 (random), Dettmers & Zettlemoyer 2019 (momentum), Evci et al. 2020 (gradient).
"""

from __future__ import annotations

from torch import Tensor

from plasticity_lightning.sparsity.criteria import random, scored
from plasticity_lightning.sparsity.layer import Criterion, Layer
from plasticity_lightning.sparsity.masks import top_n
from plasticity_lightning.sparsity.methods import GrowName
from plasticity_lightning.sparsity.structured import within_capacity

__all__ = ["GROWTH", "grow", "growth_score"]


def _absolute(signal: Tensor | None, name: str) -> Tensor:
    if signal is None:
        raise ValueError(f"growth by {name} needs that tensor")
    return signal.detach().abs()


GROWTH: dict[str, Criterion] = {
    "gradient": lambda layer: _absolute(layer.gradient, "gradient"),
    "momentum": lambda layer: _absolute(layer.momentum, "momentum"),
    "random": lambda layer: random(layer.weight, layer.generator),
}


def growth_score(criterion: GrowName | Criterion, layer: Layer) -> Tensor:
    """Score of every position; the highest among the absent ones grow.

    Args:
        criterion: `gradient` (|dense gradient|), `momentum` (|optimiser's running mean of it|), `random`, or a function.
        layer: with what the criterion reads.

    Raises:
        ValueError: if the name is unknown (`none` has no score), or what it needs was not given.
    """
    return scored(criterion, GROWTH, "grow", layer)


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
