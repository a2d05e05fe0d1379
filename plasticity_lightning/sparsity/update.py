"""One update of all masks: gradual pruning, then regeneration. GMP, SET, RigL and GraNet are choices of the two.

    GMP     prune to the schedule's density                    RigL, SET   drop a share, grow as many
    GraNet  prune to the schedule's density, then drop a share and grow as many (zero-cost neuroregeneration)

Tensors by layer name go in, masks come out; nothing is modified. Random choices take a generator.

Sources: Zhu & Gupta 2017 (GMP), Mocanu et al. 2018 (SET), Evci et al. 2020 (RigL), Liu et al. 2021 (GraNet).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from plasticity_lightning.sparsity.allocation import AllocationName, allocate, exact_counts, global_masks
from plasticity_lightning.sparsity.criteria import DropName, ScoreName, drop, score
from plasticity_lightning.sparsity.growth import GrowName, grow, growth_score
from plasticity_lightning.sparsity.masks import count, top_n
from plasticity_lightning.sparsity.structured import fan_in_limit, group_limit, limit_mask, parse_structure

__all__ = ["MaskUpdate", "PruneScope", "n_living", "prune_to_density", "regenerate", "update_masks"]

PruneScope = Literal["global", "uniform", "er", "erk"]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class MaskUpdate:
    """What an update decides.

    Attributes:
        masks: the new masks by layer.
        kept: weights that never left, by layer: they keep value and optimiser state, all others start at 0. A weight
            that is dropped and grown again in the same update counts as kept, as in the published codes of RigL and
            GraNet; one that gradual pruning removed does not.
        pruned: weights removed by gradual pruning, by layer.
        dropped: weights removed by regeneration, by layer.
        grown: weights grown, by layer.
    """

    masks: dict[str, Tensor]
    kept: dict[str, Tensor]
    pruned: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)


def n_living(total: int, density: float) -> int:
    """floor(total * density), safe against the last bit: 0.3 of 10 is 3.

    Raises:
        ValueError: if `density` is outside [0, 1].
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density={density} must lie in [0, 1]")
    return min(total, math.floor(total * density + 1e-9 * max(1.0, total * density)))


def prune_to_density(
    scores: Tensors,
    masks: Tensors,
    density: float,
    scope: PruneScope = "global",
    floors: Mapping[str, float] | None = None,
    strict: bool = False,
    structure: str | None = None,
) -> dict[str, Tensor]:
    """Keep the living weights of highest score, such that all layers together have the given density.

    Args:
        scores: by layer; compared across layers if `scope` is "global".
        masks: what lives now; nothing is added to it, so the result may be sparser than asked where a layer already is.
        density: share of living weights over all layers, in [0, 1]: floor(total * density) stay.
        scope: "global" ranks all layers together; "uniform", "er" and "erk" give each layer its count first.
        floors: lowest density of single layers, for every scope but "global".
        strict: the reference code's quirk: score > the n-th highest, which leaves n - 1, or fewer with ties.
        structure: "fan_in" rounds each layer to one fan-in for all outputs; "n:m" needs nothing here, since a part of
            an N:M mask is one.

    Returns:
        Masks by layer, subsets of `masks`.

    Raises:
        ValueError: if an argument is out of range.
    """
    if scope not in get_args(PruneScope):
        raise ValueError(f"scope must be one of {', '.join(get_args(PruneScope))}, got {scope!r}")
    total = n_living(sum(mask.numel() for mask in masks.values()), density)
    result: dict[str, Tensor] = {}
    if scope == "global":
        if floors:
            raise ValueError("floors need a layer-wise scope (uniform, er, erk); scope is 'global'")
        n = min(total, sum(count(mask) for mask in masks.values()))
        result = global_masks(scores, n, masks)
        if strict and n:
            lowest = min(scores[name][mask].min() for name, mask in result.items() if bool(mask.any()))
            result = {name: mask & (scores[name] > lowest) for name, mask in result.items()}
    else:
        counts = layer_counts(scope, masks, density, floors)
        for name, mask in masks.items():
            n = min(counts[name], count(mask))
            result[name] = top_n(scores[name], n, mask)
            if strict and n:
                result[name] &= scores[name] > scores[name][result[name]].min()
    if structure == "fan_in":
        limits = {name: fan_in_limit(mask.shape, count(mask)) for name, mask in result.items()}
        result = {name: limit_mask(scores[name], *limits[name], masks[name]) for name in result}
    return result


def layer_counts(
    scope: AllocationName, masks: Tensors, density: float, floors: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Exact number of weights by layer under a layer-wise allocation, floor(total * density) together."""
    sizes = {name: mask.numel() for name, mask in masks.items()}
    densities = allocate(scope, {name: mask.shape for name, mask in masks.items()}, density, floors)
    return exact_counts(densities, sizes, n_living(sum(sizes.values()), density))


def regenerate(
    weight: Tensor,
    mask: Tensor,
    rate: float,
    drop_by: DropName = "magnitude",
    grow_by: GrowName = "gradient",
    gradient: Tensor | None = None,
    momentum: Tensor | None = None,
    generator: torch.Generator | None = None,
    threshold: float = 0.0,
    strict: bool = False,
    structure: str | None = None,
) -> tuple[Tensor, int, int]:
    """Drop a share of one layer's weights and grow as many: the layer's density stays.

    Args:
        weight: [out, in, ...].
        mask: bool, same shape.
        rate: share of the living weights to drop, in [0, 1]; ceil(rate * living) go.
        drop_by: criterion, see `criteria.drop`.
        grow_by: criterion, see `growth.growth_score`; "none" grows nothing.
        gradient: dense gradient, for growth and for the criterion "taylor".
        momentum: the optimiser's mean of the gradient, for growth by momentum.
        generator: for random choices, on the CPU.
        threshold: for the criterion "threshold".
        strict: the reference code's rule with ties, see `criteria.drop`.
        structure: "n:m" or "fan_in"; growth keeps within it.

    Returns:
        (mask, dropped, grown): the new mask and the numbers of weights; a dropped weight may return at once and counts
        in both.

    Raises:
        ValueError: if a name is unknown or what a criterion needs was not given.
    """
    remaining = drop(drop_by, weight, mask, rate, gradient, generator, threshold, strict)
    dropped = count(mask) - count(remaining)
    if grow_by == "none" or dropped == 0:
        return remaining, dropped, 0
    limit = None
    if structure is not None:
        parsed = parse_structure(structure)
        limit = group_limit(mask.shape, *parsed) if parsed else fan_in_limit(mask.shape, count(mask))
    scores = growth_score(grow_by, weight, momentum if grow_by == "momentum" else gradient, generator)
    return grow(remaining, dropped, scores, limit), dropped, dropped


def update_masks(
    weights: Tensors,
    masks: Tensors,
    density: float | None = None,
    rate: float | None = None,
    gradients: Tensors | None = None,
    momenta: Tensors | None = None,
    scope: PruneScope = "global",
    prune_by: ScoreName = "magnitude",
    floors: Mapping[str, float] | None = None,
    drop_by: DropName = "magnitude",
    grow_by: GrowName = "gradient",
    threshold: float = 0.0,
    strict: bool = False,
    structure: str | None = None,
    generator: torch.Generator | None = None,
) -> MaskUpdate:
    """Gradual pruning to `density`, then regeneration of `rate` in every layer; None leaves a part out.

    GMP is `density` alone, RigL and SET are `rate` alone, GraNet is both. Arguments as in `prune_to_density` and
    `regenerate`.

    Raises:
        ValueError: if a name is unknown, a number out of range or a needed tensor is missing.
    """
    gradients, momenta = gradients or {}, momenta or {}
    pruned = dict(masks)
    if density is not None:
        scores = {name: score(prune_by, weights[name], gradients.get(name), generator) for name in masks}
        pruned = prune_to_density(scores, masks, density, scope, floors, strict, structure)
    new, dropped, grown = dict(pruned), {}, {}
    if rate is not None:
        for name, mask in pruned.items():
            # gradual pruning has set these weights to 0 before regeneration looks at magnitudes
            weight = weights[name].detach() * mask
            signals = {"gradient": gradients.get(name), "momentum": momenta.get(name), "generator": generator}
            new[name], dropped[name], grown[name] = regenerate(
                weight,
                mask,
                rate,
                drop_by,
                grow_by,
                threshold=threshold,
                strict=strict,
                structure=structure,
                **signals,  # type: ignore[arg-type]  # three differently typed values of one dict
            )
    return MaskUpdate(
        masks=new,
        kept={name: new[name] & pruned[name] for name in new},
        pruned={name: count(masks[name]) - count(pruned[name]) for name in masks},
        dropped=dropped,
        grown=grown,
    )
