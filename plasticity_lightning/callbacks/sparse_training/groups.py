"""What PruneRegrowScheduler works on: the masked weights of each optimiser, and how long training will be."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from plasticity_lightning.callbacks.sparse_training.sync import broadcast_from_rank_zero
from plasticity_lightning.sparsity.flops import FlopsLedger
from plasticity_lightning.sparsity.plan import Plan
from plasticity_lightning.sparsity.selection import floors_by_name, layer_weights, plain_name
from plasticity_lightning.sparsity.sparse_parameters import SparseParameters

__all__ = ["sparse_groups", "training_length", "warn_if_uncounted"]


def training_length(trainer: pl.Trainer, total_steps: int | None = None) -> tuple[int | None, int | None]:
    """(optimiser steps of the training, optimiser steps per epoch), each None if unknown or infinite.

    The Trainer's estimate counts one step per batch (after accumulation); `total_steps` replaces it. Call it from
    `on_train_start` or later: before, the Trainer would set the training data up for the estimate, and a loader that is
    set up before Lightning has restored its state starts a resumed epoch anew.
    """
    estimate = trainer.estimated_stepping_batches
    if total_steps is None and 0 < estimate < math.inf:
        total_steps = int(estimate)
    batches = trainer.num_training_batches
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if 0 < batches < math.inf else None
    return total_steps, per_epoch


def sparse_groups(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    selected: Mapping[str, nn.Parameter],
    plan: Plan,
    required: Sequence[str],
    min_density: Mapping[str, float],
    seed: int,
) -> list[SparseParameters]:
    """One group for every optimiser that updates a selected weight, in the order of the optimisers.

    Args:
        trainer: with its optimisers.
        pl_module: whose layers are counted in the FLOPs.
        selected: weights to mask, by name; those that no optimiser updates are left out.
        plan: what is done, and when.
        required: names that must not be left out.
        min_density: lowest density by glob pattern.
        seed: of the first optimiser's random choices; the i-th takes seed + i.

    Raises:
        ValueError: if no optimiser updates a required weight, or any weight at all.
    """
    floors = floors_by_name(min_density, selected)
    groups: list[SparseParameters] = []
    for index, optimizer in enumerate(trainer.optimizers):
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        mine = {name: p for name, p in selected.items() if id(p) in owned}
        if mine:
            groups.append(
                SparseParameters(
                    optimizer,
                    mine,
                    plan,
                    seed=seed + index,
                    floors={name: floor for name, floor in floors.items() if name in mine},
                    synchronise=broadcast_from_rank_zero if trainer.world_size > 1 else None,
                    flops=_ledger(pl_module, owned, mine),
                )
            )
    found = {name for group in groups for name in group.parameters}
    lost = [name for name in required if name in selected and name not in found]
    if lost or not found:
        raise ValueError(
            f"no optimiser updates {lost or list(selected)[:20]}; masks are applied after optimiser steps. "
            "Add the weights to an optimiser in configure_optimizers"
        )
    return groups


def warn_if_uncounted(groups: Sequence[SparseParameters]) -> None:
    """Say so if the first batch showed no weight at work: FLOPs then count every weight once."""
    if not any(group.flops.observed for group in groups):
        rank_zero_warn(
            "PruneRegrowScheduler saw no masked weight at work in the first batch (kernels of other libraries and custom "
            "autograd functions report nothing): its FLOPs count each weight once per sample, which underrates "
            "convolutions"
        )


def _ledger(pl_module: nn.Module, owned: Collection[int], masked: Collection[str]) -> FlopsLedger:
    """Of all matrices of one optimiser. What neither is masked nor a layer (an embedding) counts when it is seen to act."""
    matrices = {plain_name(n): p for n, p in pl_module.named_parameters() if id(p) in owned and p.ndim > 1}
    counted = {*masked, *layer_weights(pl_module)}
    return FlopsLedger(
        {name: p.numel() for name, p in matrices.items()}, {name: 0 for name in matrices if name not in counted}
    )
