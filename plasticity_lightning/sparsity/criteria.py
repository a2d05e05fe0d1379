"""Which weights go? Scores (the highest stay) and the masks that follow from them.

A score is a pure function of a weight [out, in, ...] and, where needed, its gradient of the same shape. `magnitude`,
`taylor`, `snip` and `grasp` may be compared across layers (global pruning); `drop` removes a given share of one layer.

Sources: Zhu & Gupta 2017 (magnitude), Mocanu et al. 2018 (SET's two signs), Lee et al. 2019 (SNIP), Wang et al. 2020
(GraSP), Molchanov et al. 2019 (Taylor).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from plasticity_lightning.sparsity.masks import count, top_n

__all__ = [
    "SCORES",
    "DropName",
    "ScoreName",
    "above_threshold",
    "drop",
    "drop_by_sign",
    "grasp",
    "magnitude",
    "n_to_drop",
    "needs_gradient",
    "random",
    "score",
    "snip",
    "taylor",
]

ScoreName = Literal["magnitude", "taylor", "random"]
DropName = Literal["magnitude", "taylor", "random", "sign", "threshold"]


def magnitude(weight: Tensor, gradient: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """|w|."""
    return weight.detach().abs()


def taylor(weight: Tensor, gradient: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """(w g)^2: first-order estimate of the squared change of the loss if w is removed (Molchanov et al. 2019).

    Raises:
        ValueError: without a gradient.
    """
    return (weight.detach() * _given(gradient, "taylor")).square()


def random(weight: Tensor, gradient: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Uniform in [0, 1), float32, drawn on the CPU: one seed gives one mask on every device.

    Raises:
        ValueError: without a generator: the choice must be reproducible.
    """
    if generator is None:
        raise ValueError("criterion 'random' needs a torch.Generator")
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def snip(weight: Tensor, gradient: Tensor) -> Tensor:
    """|w g|, connection sensitivity (Lee et al. 2019, eq. 6 without its common normaliser, which changes no order)."""
    return (weight.detach() * gradient).abs()


def grasp(weight: Tensor, hessian_gradient: Tensor) -> Tensor:
    """Loss of gradient flow if w is removed, w * (H g): the highest stay (Wang et al. 2020).

    The paper scores S = -w * (H g) and removes the weights with the highest S; this is -S.

    Args:
        weight: w.
        hessian_gradient: H g, the Hessian of the loss times its gradient, of w's shape.
    """
    return weight.detach() * hessian_gradient


SCORES: dict[ScoreName, Callable[..., Tensor]] = {"magnitude": magnitude, "taylor": taylor, "random": random}


def score(
    name: ScoreName, weight: Tensor, gradient: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """The named score of `weight`; the highest should stay.

    Raises:
        ValueError: if the name is unknown or what it needs was not given.
    """
    if name not in SCORES:
        raise ValueError(f"criterion must be one of {', '.join(get_args(ScoreName))}, got {name!r}")
    return SCORES[name](weight, gradient, generator)


def needs_gradient(name: str) -> bool:
    """Whether the criterion reads the gradient."""
    return name == "taylor"


def n_to_drop(mask: Tensor, rate: float) -> int:
    """ceil(rate * living weights), GraNet's and ITOP's rounding.

    Raises:
        ValueError: if `rate` is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"prune rate {rate} must lie in [0, 1]")
    living = count(mask)
    return min(living, math.ceil(rate * living))


def drop(
    name: DropName,
    weight: Tensor,
    mask: Tensor,
    rate: float,
    gradient: Tensor | None = None,
    generator: torch.Generator | None = None,
    threshold: float = 0.0,
    strict: bool = False,
) -> Tensor:
    """Remove a share of one layer's living weights.

    Args:
        name: `magnitude` (smallest |w|), `taylor`, `random`, `sign` (SET) or `threshold` (all |w| <= threshold,
            whatever the rate).
        weight: [out, in, ...].
        mask: bool, same shape.
        rate: share of the living weights to remove, in [0, 1]; ceil(rate * living) go.
        gradient: for `taylor`.
        generator: for `random`.
        threshold: for `threshold`, at least 0.
        strict: the reference code's rule for `magnitude`: |w| > the k-th smallest survives, so ties go together.

    Returns:
        The new mask, a subset of `mask`.

    Raises:
        ValueError: if the name is unknown or an argument is out of range.
    """
    if name not in get_args(DropName):
        raise ValueError(f"drop must be one of {', '.join(get_args(DropName))}, got {name!r}")
    if name == "threshold":
        return above_threshold(weight, mask, threshold)
    n = n_to_drop(mask, rate)
    if name == "sign":
        return drop_by_sign(weight, mask, n)
    scores = score(name, weight, gradient, generator)
    if strict and n > 0:
        living = scores[mask]
        return mask & (scores > living.kthvalue(n).values)
    return top_n(scores, count(mask) - n, mask)


def drop_by_sign(weight: Tensor, mask: Tensor, n: int) -> Tensor:
    """SET: of n weights to go, the smallest positive and the negative closest to 0, in proportion to their numbers.

    A living weight of exactly 0 counts as positive. n is split as floor(n * negative / living) negative ones.

    Raises:
        ValueError: if n exceeds the living weights.
    """
    weight = weight.detach()
    negative = mask & (weight < 0)
    positive = mask & ~negative
    n_negative, n_living = count(negative), count(mask)
    if not 0 <= n <= n_living:
        raise ValueError(f"n={n} must lie between 0 and the {n_living} living weights")
    from_negative = n * n_negative // n_living if n_living else 0
    kept_negative = top_n(-weight, n_negative - from_negative, negative)
    return kept_negative | top_n(weight, n_living - n_negative - (n - from_negative), positive)


def above_threshold(weight: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """Living weights with |w| > threshold.

    Raises:
        ValueError: if the threshold is negative.
    """
    if threshold < 0:
        raise ValueError(f"threshold={threshold} must be at least 0")
    return mask & (weight.detach().abs() > threshold)


def _given(gradient: Tensor | None, name: str) -> Tensor:
    if gradient is None:
        raise ValueError(f"criterion {name!r} needs the gradient")
    return gradient.detach()
