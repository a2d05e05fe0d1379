"""One update of all masks: gradual pruning, then regeneration. GMP, SET, RigL and GraNet are choices of the two.

    GMP     prune to the schedule's density                    RigL, SET   drop a share, grow as many
    GraNet  prune to the schedule's density, then drop a share and grow as many (zero-cost neuroregeneration)
    SRigL   RigL with one fan-in a layer, ablating neurons (`ablation`)

Tensors by layer name go in, masks come out; nothing is modified. Random choices take a generator.

Sources: Zhu & Gupta 2017 (GMP), Mocanu et al. 2018 (SET), Evci et al. 2020 (RigL), Liu et al. 2021 (GraNet),
Lasby et al. 2024 (SRigL).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor

from plasticity_lightning.sparsity.ablation import ablating_update
from plasticity_lightning.sparsity.allocation import AllocationName, allocate, exact_counts, global_masks
from plasticity_lightning.sparsity.criteria import drop, n_to_drop, score
from plasticity_lightning.sparsity.growth import grow, growth_score
from plasticity_lightning.sparsity.layer import Layer
from plasticity_lightning.sparsity.masks import count, dead_outputs, top_n
from plasticity_lightning.sparsity.methods import Method, PruneScope
from plasticity_lightning.sparsity.structured import fan_in_limit, group_limit, limit_mask, parse_structure

__all__ = ["MaskUpdate", "n_living", "prune_to_density", "regenerate", "update_masks"]

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
        unused: layers whose weights were not exchanged, since no batch has used them.
        ablated: neurons that had weights and have none any more, by layer.
        revived: neurons that had none and have some again, by layer.
    """

    masks: dict[str, Tensor]
    kept: dict[str, Tensor]
    pruned: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    ablated: dict[str, int] = field(default_factory=dict)
    revived: dict[str, int] = field(default_factory=dict)


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
        strict: the reference code's quirk: score > the n-th highest, which leaves n - 1, or fewer with ties. Where fewer
            than n live, the n-th highest is an absent weight's 0.
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
        living = sum(count(mask) for mask in masks.values())
        result = global_masks(scores, min(total, living), masks)
        if strict and total:
            threshold = _lowest(scores, result) if total <= living else 0.0
            result = {name: mask & (scores[name] > threshold) for name, mask in result.items()}
    else:
        counts = layer_counts(scope, masks, density, floors)
        for name, mask in masks.items():
            n = min(counts[name], count(mask))
            result[name] = top_n(scores[name], n, mask)
            if strict and counts[name]:
                few = counts[name] > n
                result[name] &= scores[name] > (0.0 if few else scores[name][result[name]].min())
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


def regenerate(layer: Layer, rate: float, method: Method, budget: int | None = None) -> tuple[Tensor, int, int]:
    """Drop a share of one layer's weights and grow as many: the layer's density stays.

    Args:
        layer: its weight, mask and whatever the criteria read.
        rate: share of the living weights to drop, in [0, 1]; ceil(rate * living) go.
        method: its `drop_by`, `grow_by` ("none" grows nothing), `structure` (growth keeps within it) and their options.
        budget: weights that the layer may have, where neurons may be ablated by `method.ablate_below`; None ablates none.

    Returns:
        (mask, dropped, grown): the new mask and the numbers of weights; a dropped weight may return at once and counts
        in both.

    Raises:
        ValueError: if a number is out of range or what a criterion needs was not given.
    """
    mask = layer.mask
    if method.ablate_below and budget is not None:
        # `Method` refuses ablation without criteria that score weights
        kept, wanted = score(method.drop_by, layer), growth_score(method.grow_by, layer)  # type: ignore[arg-type]
        made = ablating_update(mask, kept, wanted, n_to_drop(mask, rate), budget, method.ablate_below)
        left = count(made.remaining)
        return made.mask, count(mask) - left, count(made.mask) - left
    remaining = drop(layer, rate, method)
    dropped = count(mask) - count(remaining)
    if method.grow_by == "none" or dropped == 0:
        return remaining, dropped, 0
    limit = None
    if method.structure is not None:
        parsed = parse_structure(method.structure)
        limit = group_limit(mask.shape, *parsed) if parsed else fan_in_limit(mask.shape, count(mask))
    return grow(remaining, dropped, growth_score(method.grow_by, layer), limit), dropped, dropped


def update_masks(
    layers: Mapping[str, Layer],
    method: Method,
    density: float | None = None,
    rate: float | None = None,
    floors: Mapping[str, float] | None = None,
    unused: Collection[str] = (),
    budgets: Mapping[str, int] | None = None,
) -> MaskUpdate:
    """Gradual pruning to `density`, then regeneration of `rate` in every layer; None leaves a part out.

    GMP is `density` alone, RigL and SET are `rate` alone, GraNet is both.

    Args:
        layers: by name.
        method: with the criteria; layers' shares in pruning are global if it never prunes gradually itself.
        density: see `prune_to_density`.
        rate: see `regenerate`.
        floors: see `prune_to_density`.
        unused: layers that no batch has used. They are pruned like the others; where growth goes by gradient or
            momentum, it knows nothing of them, and their weights are not exchanged for zeros that no batch would train.
        budgets: weights by layer, where `method.ablate_below` may ablate; None takes what lives now. Of the last layer no
            neurons are ablated, as in the published code: they are the network's outputs.

    Raises:
        ValueError: if a name is unknown, a number out of range or a needed tensor is missing.
    """
    masks = {name: layer.mask for name, layer in layers.items()}
    pruned = masks
    if density is not None:
        scores = {name: score(method.prune_by, layer) for name, layer in layers.items()}
        scope: PruneScope = "global" if method.prune == "none" else method.prune
        pruned = prune_to_density(scores, masks, density, scope, floors, method.strict_threshold, method.structure)
    new, dropped, grown = dict(pruned), {}, {}
    kept_as_they_are = set(unused) if rate is not None and method.grow_by in ("gradient", "momentum") else set()
    if rate is not None:
        last = next(reversed(pruned), None)
        for name, mask in pruned.items():
            if name in kept_as_they_are:
                continue
            budget = None if name == last else (budgets or {}).get(name, count(mask))
            # gradual pruning has set these weights to 0 before regeneration looks at magnitudes
            layer = replace(layers[name], mask=mask, weight=layers[name].weight.detach() * mask)
            new[name], dropped[name], grown[name] = regenerate(layer, rate, method, budget)
    return MaskUpdate(
        masks=new,
        kept={name: new[name] & pruned[name] for name in new},
        pruned={name: count(masks[name]) - count(pruned[name]) for name in masks},
        dropped=dropped,
        grown=grown,
        unused=tuple(name for name in new if name in kept_as_they_are),
        ablated={name: count(dead_outputs(new[name]) & ~dead_outputs(masks[name])) for name in masks},
        revived={name: count(dead_outputs(masks[name]) & ~dead_outputs(new[name])) for name in masks},
    )


def _lowest(scores: Tensors, masks: Tensors) -> Tensor:
    return torch.stack([scores[name][mask].min() for name, mask in masks.items() if bool(mask.any())]).min()
