"""Which weights go? Scores (the highest stay) and the masks that follow from them.

A criterion is a function of one `Layer` that returns a score of its weight's shape; `SCORES` and `DROPS` hold those with
a name, any other function serves as well. `magnitude`, `taylor`, `snip` and `grasp` may be compared across layers (global
pruning); `drop` removes a given share of one layer.

Sources: Zhu & Gupta 2017 (magnitude), Mocanu et al. 2018 (SET's two signs), Lee et al. 2019 (SNIP), Wang et al. 2020
(GraSP), Molchanov et al. 2019 (Taylor).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from plasticity_lightning.errors import nearest
from plasticity_lightning.sparsity.layer import Criterion, Layer
from plasticity_lightning.sparsity.masks import count, top_n
from plasticity_lightning.sparsity.methods import DropName, Method, ScoreName

__all__ = [
    "DROPS",
    "SCORES",
    "above_threshold",
    "drop",
    "drop_by_sign",
    "grasp",
    "magnitude",
    "n_to_drop",
    "random",
    "score",
    "scored",
    "snip",
    "taylor",
]


def magnitude(weight: Tensor) -> Tensor:
    """|w|."""
    return weight.detach().abs()


def taylor(weight: Tensor, gradient: Tensor | None) -> Tensor:
    """(w g)^2: first-order estimate of the squared change of the loss if w is removed (Molchanov et al. 2019).

    Raises:
        ValueError: without a gradient.
    """
    if gradient is None:
        raise ValueError("criterion 'taylor' needs the gradient")
    return (weight.detach() * gradient.detach()).square()


def random(weight: Tensor, generator: torch.Generator | None) -> Tensor:
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


SCORES: dict[str, Criterion] = {
    "magnitude": lambda layer: magnitude(layer.weight),
    "taylor": lambda layer: taylor(layer.weight, layer.gradient),
    "random": lambda layer: random(layer.weight, layer.generator),
}


def scored(criterion: str | Criterion, table: Mapping[str, Criterion], what: str, layer: Layer) -> Tensor:
    """The layer's score by a name in `table` or by any function.

    Raises:
        ValueError: if the name is unknown, or the function returns something else than one number a weight.
    """
    if isinstance(criterion, str) and criterion not in table:
        raise ValueError(
            f"{what} must be one of {', '.join(table)}, or a function of a Layer, got {criterion!r}"
            f"{nearest(criterion, table)}"
        )
    result = (table[criterion] if isinstance(criterion, str) else criterion)(layer)
    if not isinstance(result, Tensor) or result.shape != layer.weight.shape:
        got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"{what}={criterion} must return a score of shape {tuple(layer.weight.shape)}, got {got}")
    return result.detach()


def score(criterion: ScoreName | Criterion, layer: Layer) -> Tensor:
    """The score of a layer's weights by a name in `SCORES` or by a function; the highest should stay.

    Raises:
        ValueError: if the name is unknown or what it needs was not given.
    """
    return scored(criterion, SCORES, "criterion", layer)


def n_to_drop(mask: Tensor, rate: float) -> int:
    """ceil(rate * living weights), GraNet's and ITOP's rounding.

    Raises:
        ValueError: if `rate` is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"prune rate {rate} must lie in [0, 1]")
    living = count(mask)
    return min(living, math.ceil(rate * living))


def _by_score(criterion: ScoreName | Criterion) -> Callable[[Layer, int, Method], Tensor]:
    def remaining(layer: Layer, n: int, method: Method) -> Tensor:
        scores = score(criterion, layer)
        if method.strict_threshold and n > 0:
            return layer.mask & (scores > scores[layer.mask].kthvalue(n).values)
        return top_n(scores, count(layer.mask) - n, layer.mask)

    return remaining


# a layer, how many weights are to go, and the method's further options -> what remains
DROPS: dict[DropName, Callable[[Layer, int, Method], Tensor]] = {
    "magnitude": _by_score("magnitude"),
    "taylor": _by_score("taylor"),
    "random": _by_score("random"),
    "sign": lambda layer, n, method: drop_by_sign(layer.weight, layer.mask, n),
    "threshold": lambda layer, n, method: above_threshold(layer.weight, layer.mask, method.drop_threshold),
}


def drop(layer: Layer, rate: float, method: Method) -> Tensor:
    """Remove a share of one layer's living weights.

    Args:
        layer: with the gradient for `taylor` and a generator for `random`.
        rate: share of the living weights to remove, in [0, 1]; ceil(rate * living) go.
        method: its `drop_by`: `magnitude` (smallest |w|), `taylor`, `random`, `sign` (SET), `threshold` (all |w| <=
            `drop_threshold`, whatever the rate) or a function whose lowest scores go; `strict_threshold` is the reference
            code's rule: score > the k-th smallest survives, so ties go together.

    Returns:
        The new mask, a subset of the layer's.

    Raises:
        ValueError: if `rate` is out of range or what the criterion needs was not given.
    """
    n = n_to_drop(layer.mask, rate)
    rule = DROPS[method.drop_by] if isinstance(method.drop_by, str) else _by_score(method.drop_by)
    return rule(layer, n, method)


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
