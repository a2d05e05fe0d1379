"""What PruneRegrowScheduler works on: the masked weights of each optimiser, and how long training will be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from plasticity_lightning.callbacks.sparse_training.sync import broadcast_from_rank_zero
from plasticity_lightning.sparsity.flops import WEIGHTED_LAYERS, FlopsLedger
from plasticity_lightning.sparsity.plan import Plan
from plasticity_lightning.sparsity.selection import floors_by_name, plain_name
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
            sizes = {name: p.numel() for name, p in (_layer_weights(pl_module) | mine).items() if id(p) in owned}
            groups.append(
                SparseParameters(
                    optimizer,
                    mine,
                    plan,
                    seed=seed + index,
                    floors={name: floor for name, floor in floors.items() if name in mine},
                    synchronise=broadcast_from_rank_zero if trainer.world_size > 1 else None,
                    flops=FlopsLedger(sizes),
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


def warn_if_uncounted(module: nn.Module, groups: Sequence[SparseParameters]) -> None:
    """Say so if the first batch showed no layer at work, as in compiled code: FLOPs then count every weight once."""
    if _layer_weights(module) and not any(group.flops.positions for group in groups):
        rank_zero_warn(
            "PruneRegrowScheduler saw no layer run in the first batch (compiled code reports nothing): "
            "its FLOPs count each weight once per sample, which underrates convolutions"
        )


def _layer_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    names = {id(p): plain_name(name) for name, p in module.named_parameters()}
    layers = [layer for layer in module.modules() if isinstance(layer, WEIGHTED_LAYERS)]
    return {names[id(layer.weight)]: layer.weight for layer in layers if id(layer.weight) in names}  # type: ignore[misc]  # weighted layers have parameters
