"""Where may weights live? Masks, allocation, criteria, growth, updates, FLOPs and export: tensors in, tensors out."""

from plasticity_lightning.sparsity.allocation import allocate, exact_counts, global_masks
from plasticity_lightning.sparsity.criteria import drop, grasp, score, snip
from plasticity_lightning.sparsity.export import strip, to_csr, to_semi_structured
from plasticity_lightning.sparsity.growth import grow, growth_score
from plasticity_lightning.sparsity.layer import Layer
from plasticity_lightning.sparsity.masks import density, exploration_rate, overlap, pack, top_n, unpack
from plasticity_lightning.sparsity.methods import Method, make_method
from plasticity_lightning.sparsity.update import MaskUpdate, prune_to_density, regenerate, update_masks

__all__ = [
    "Layer",
    "MaskUpdate",
    "Method",
    "allocate",
    "density",
    "drop",
    "exact_counts",
    "exploration_rate",
    "global_masks",
    "grasp",
    "grow",
    "growth_score",
    "make_method",
    "overlap",
    "pack",
    "prune_to_density",
    "regenerate",
    "score",
    "snip",
    "strip",
    "to_csr",
    "to_semi_structured",
    "top_n",
    "unpack",
    "update_masks",
]
