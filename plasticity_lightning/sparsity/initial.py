"""The initial masks of a sparse network, from random draws, weights or scores.

Sources: Evci et al. 2020 (ERK), Lee et al. 2019 (SNIP), Wang et al. 2020 (GraSP), as options of one function.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from plasticity_lightning.sparsity.allocation import allocate
from plasticity_lightning.sparsity.criteria import magnitude, random
from plasticity_lightning.sparsity.masks import count
from plasticity_lightning.sparsity.methods import Method
from plasticity_lightning.sparsity.structured import group_limit, limit_mask, parse_structure
from plasticity_lightning.sparsity.update import prune_to_density

__all__ = ["initial_masks"]


def initial_masks(
    method: Method,
    weights: Mapping[str, Tensor],
    scores: Mapping[str, Tensor] | None = None,
    floors: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Masks of the method's initial sparsity.

    Args:
        method: its `init_by`, `allocation`, `initial_sparsity`, `structure` and `bernoulli` count.
        weights: by layer [out, in, ...].
        scores: by layer, for `snip` and `grasp`; the highest live.
        floors: lowest density of single layers; not with `allocation="global"`.
        generator: for random draws, on the CPU.

    Returns:
        Bool masks by layer, floor(total * density) living weights together (with "fan_in" as close as one fan-in per
        layer allows; with `bernoulli` on average).

    Raises:
        ValueError: if a needed argument is missing or the sizes do not fit the structure.
    """
    density = 1 - method.start_sparsity
    full = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    if method.init_by == "nonzero":
        return {name: weight.detach() != 0 for name, weight in weights.items()}
    if density == 1:
        return full
    if method.bernoulli:
        assert method.allocation != "global"  # Method refuses the combination
        densities = allocate(method.allocation, {n: w.shape for n, w in weights.items()}, density, floors)
        return {name: random(weight, generator) < densities[name] for name, weight in weights.items()}
    if method.init_by == "magnitude":
        scores = {name: magnitude(weight) for name, weight in weights.items()}
    elif method.init_by == "random":
        scores = {name: random(weight, generator) for name, weight in weights.items()}
    elif scores is None:
        raise ValueError(f"init_by={method.init_by!r} needs scores of the first batches")
    limit = parse_structure(method.structure) if method.structure is not None else None
    if limit is not None:
        full = {name: limit_mask(scores[name], *group_limit(w.shape, *limit)) for name, w in weights.items()}
        available = sum(count(mask) for mask in full.values()) / sum(mask.numel() for mask in full.values())
        density = min(density, available)
    return prune_to_density(scores, full, density, method.allocation, floors, structure=method.structure)
