"""How many weights does each layer get? Densities by layer for one overall density, and exact counts.

Layers are given by their weights' shapes, by name. `uniform` gives every layer the same density, `er` (Erdos-Renyi)
and `erk` (with kernel) more density to narrow layers: raw density = sum(dims) / product(dims), scaled so that the total
holds. Layers that would exceed density 1 become dense and the scale is solved again, repeatedly.

Sources: Mocanu et al. 2018 (ER), Evci et al. 2020 (ERK).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from plasticity_lightning.sparsity.masks import top_n

__all__ = ["ALLOCATIONS", "AllocationName", "allocate", "er", "erk", "exact_counts", "global_masks", "uniform"]

AllocationName = Literal["uniform", "er", "erk"]
Shape = Sequence[int]


def uniform(shape: Shape) -> float:
    """Raw density 1: every layer alike."""
    return 1.0


def er(shape: Shape) -> float:
    """Raw density (in + out) / (in * out), the kernel left out (Mocanu et al. 2018)."""
    return (shape[0] + shape[1]) / (shape[0] * shape[1])


def erk(shape: Shape) -> float:
    """Raw density sum(shape) / product(shape), kernel included (Evci et al. 2020)."""
    return sum(shape) / math.prod(shape)


ALLOCATIONS: dict[AllocationName, Callable[[Shape], float]] = {"uniform": uniform, "er": er, "erk": erk}


def allocate(
    name: AllocationName, shapes: Mapping[str, Shape], density: float, floors: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Density of every layer such that the mean over all weights is `density`.

    Args:
        name: which raw densities are scaled: `uniform`, `er` or `erk`.
        shapes: weight shapes [out, in, ...] by layer.
        density: overall share of living weights, in [0, 1].
        floors: lowest density of single layers, in [0, 1] (0.2 of the last layer in GraNet's uniform variant; 1 keeps
            a layer dense). The other layers pay for it.

    Returns:
        Densities in [0, 1] by layer, in the order of `shapes`.

    Raises:
        ValueError: if the name is unknown, a number is out of range, a shape empty, a layer unknown, or the floors alone
            exceed `density`.
    """
    if name not in ALLOCATIONS:
        raise ValueError(f"allocation must be one of {', '.join(get_args(AllocationName))}, got {name!r}")
    if not 0 <= density <= 1:
        raise ValueError(f"density={density} must lie in [0, 1]")
    for layer, shape in shapes.items():
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(
                f"shapes: layer {layer!r} is {tuple(shape)}, expected [out, in, ...] with no empty dimension"
            )
    floors = dict(floors or {})
    for layer, floor in floors.items():
        if layer not in shapes:
            raise ValueError(f"floors name the layer {layer!r}, which is not among {list(shapes)}")
        if not 0 <= floor <= 1:
            raise ValueError(f"floor={floor} of layer {layer!r} must lie in [0, 1]")
    size = {layer: math.prod(shape) for layer, shape in shapes.items()}
    raw = {layer: ALLOCATIONS[name](shape) for layer, shape in shapes.items()}
    total = density * sum(size.values())
    least = sum(floors.get(layer, 0.0) * n for layer, n in size.items())
    if least > total * (1 + 1e-12):
        raise ValueError(f"the floors alone need {least:.0f} weights, density={density} leaves {total:.0f}")
    return _solve(raw, size, total, floors)


def exact_counts(densities: Mapping[str, float], sizes: Mapping[str, int], total: int | None = None) -> dict[str, int]:
    """Whole numbers of weights whose sum is exactly `total`: rounded down, the rest to the largest remainders.

    Args:
        densities: by layer, in [0, 1].
        sizes: number of weights by layer.
        total: None rounds the sum of densities * sizes.

    Returns:
        Counts by layer, each between 0 and the layer's size and within one weight of densities * sizes.

    Raises:
        ValueError: if `total` is further from the densities' sum than rounding explains.
    """
    wanted = {layer: densities[layer] * n for layer, n in sizes.items()}
    if total is None:
        total = round(sum(wanted.values()))
    # 1e-9: 0.1 * 30 must not be rounded down to 2 by its last bit
    counts = {layer: min(math.floor(w + 1e-9 * max(1.0, w)), sizes[layer]) for layer, w in wanted.items()}
    rest = total - sum(counts.values())
    open_layers = [layer for layer in sizes if counts[layer] < sizes[layer]]
    if not 0 <= rest <= len(open_layers):
        raise ValueError(f"total={total} does not fit densities that sum to {sum(wanted.values()):.3f} weights")
    # sorted is stable: equal remainders go to the earlier layer
    for layer in sorted(open_layers, key=lambda layer: counts[layer] - wanted[layer])[:rest]:
        counts[layer] += 1
    return counts


def global_masks(
    scores: Mapping[str, Tensor], n: int, candidates: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The n highest scores of all layers together: the allocation follows from the scores.

    Args:
        scores: by layer, any shapes, one device.
        n: living weights over all layers.
        candidates: bool masks by layer; None means all.

    Returns:
        Bool masks by layer with exactly n True together; ties go to the earlier layer, then to the lower index.

    Raises:
        ValueError: if there are fewer than n candidates.
    """
    joined = torch.cat([score.detach().flatten() for score in scores.values()])
    allowed = None if candidates is None else torch.cat([candidates[name].flatten() for name in scores])
    parts = top_n(joined, n, allowed).split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def _solve(
    raw: Mapping[str, float], size: Mapping[str, int], total: float, floors: Mapping[str, float]
) -> dict[str, float]:
    """Clamp(eps * raw, floor, 1) with the one eps that gives `total`; bounds that are hit are fixed, the rest re-solved."""
    fixed: dict[str, float] = {}
    while True:
        free = {layer: raw[layer] for layer in raw if layer not in fixed}
        left = total - sum(fixed[layer] * size[layer] for layer in fixed)
        weight = sum(free[layer] * size[layer] for layer in free)
        eps = left / weight if weight else 0.0
        above = {layer: 1.0 for layer in free if eps * free[layer] > 1}
        below = {layer: floors[layer] for layer in free if eps * free[layer] < floors.get(layer, 0.0)}
        if not above and not below:
            return {layer: fixed[layer] if layer in fixed else eps * raw[layer] for layer in raw}
        # only the side that is violated by more weights is certain to stay at its bound
        excess = sum((eps * free[layer] - 1) * size[layer] for layer in above)
        deficit = sum((floor - eps * free[layer]) * size[layer] for layer, floor in below.items())
        fixed |= above if excess >= deficit else below
