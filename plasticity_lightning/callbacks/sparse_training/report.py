"""What PruneRegrowScheduler tells: scalars for loggers and other callbacks, TensorBoard curves and images, a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table
from torch import Tensor

from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.lightning_classes import is_lightning
from plasticity_lightning.sparsity.masks import dead_outputs, exploration_rate, overlap
from plasticity_lightning.sparsity.selection import LayerKind
from plasticity_lightning.sparsity.sparse_parameters import SparseParameters
from plasticity_lightning.sparsity.update import MaskUpdate

__all__ = ["Report", "layer_table", "mask_image", "scalars"]


def scalars(groups: Sequence[SparseParameters], effective_zeros: float | None = None) -> dict[str, float]:
    """Global figures over all groups; the prune rate is the first group's.

    Args:
        groups: with their masks.
        effective_zeros: number of zeros among the weights that act; None takes the masks'.
    """
    living = sum(n for group in groups for n in group.living.values())
    total = sum(mask.numel() for group in groups for mask in group.masks.values())
    dense = sum(group.flops.forward({}) for group in groups)
    values = {
        "global": 1 - living / total,
        "effective": 1 - living / total if effective_zeros is None else effective_zeros / total,
        "exploration_rate": exploration_rate(mask for group in groups for mask in group.ever_active.values()),
        "prune_rate": groups[0].plan.prune_rate(groups[0].step) if groups[0].plan.method.regenerates else 0.0,
        "inference_flops": sum(group.flops.forward(group.living) for group in groups) / dense,
    }
    if all(group.flops.dense for group in groups):
        values["training_flops"] = sum(g.flops.spent for g in groups) / sum(g.flops.dense for g in groups)
    return values


def mask_image(mask: Tensor, pixels: int = 256) -> Tensor:
    """Share of living weights by place, float [1, H, W] in [0, 1]: outputs down, inputs (kernels side by side) across."""
    picture = mask.flatten(1).float()[None]
    size = (min(picture.shape[1], pixels), min(picture.shape[2], pixels))
    return torch.nn.functional.adaptive_avg_pool2d(picture, size)


def layer_table(groups: Sequence[SparseParameters], kinds: Mapping[str, LayerKind | None]) -> Table:
    """One row a layer: shape, weights, living ones, sparsity, dead outputs (no input), share of the FLOPs.

    Args:
        groups: with their masks.
        kinds: layout by name; of a raw matrix (None) it is not known which dimension counts outputs.
    """
    table = Table(title="Sparsity by layer")
    for column in ("layer", "shape", "weights", "living", "sparsity", "dead", "FLOPs"):
        first = column == "layer"
        table.add_column(column, justify="left" if first else "right", overflow="fold" if first else "ellipsis")
    forward = sum(group.flops.forward(group.living) for group in groups)
    for group in groups:
        for name, mask in group.masks.items():
            living, n = group.living[name], mask.numel()
            share = 2 * living * group.flops.positions.get(name, 1) / forward if forward else 0.0
            kind = kinds[name]
            dead = (
                ""
                if kind is None
                else str(int(dead_outputs(mask if kind.outputs_first else mask.transpose(0, 1)).sum()))
            )
            shape = "x".join(map(str, mask.shape))
            table.add_row(name, shape, f"{n:,}", f"{living:,}", f"{1 - living / n:.4f}", dead, f"{share:.1%}")
    values = scalars(groups)
    total = sum(mask.numel() for group in groups for mask in group.masks.values())
    living = sum(n for group in groups for n in group.living.values())
    table.add_section()
    table.add_row("all masked", "", f"{total:,}", f"{living:,}", f"{values['global']:.4f}", "", "")
    table.caption = (
        f"exploration rate {values['exploration_rate']:.3f}; FLOPs of dense: inference {values['inference_flops']:.1%}"
    )
    if "training_flops" in values:
        table.caption += f", training {values['training_flops']:.1%}"
    return table


class Report:
    """Collects what happened between two moments of logging.

    Args:
        layers: log curves and images of the layers at updates.
        summary: print the table at the end.
    """

    def __init__(self, layers: bool, summary: bool) -> None:
        self.layers, self.summary = layers, summary
        self._counts: dict[str, int] = {}
        self._told: set[str] = set()
        self._previous: dict[str, Tensor] = {}
        self._news = False

    def start(self, groups: Sequence[SparseParameters], resumed: bool) -> None:
        """Have the first batch of a new run logged; a resumed one goes on from the masks, which were logged when they came."""
        self._counts, self._news = {}, not resumed
        self._previous = {name: mask for group in groups for name, mask in group.masks.items()} if resumed else {}

    def note(self, update: MaskUpdate) -> None:
        """Remember an update until the batch ends."""
        for kind in ("pruned", "dropped", "grown", "ablated", "revived"):
            self._counts[kind] = self._counts.get(kind, 0) + sum(getattr(update, kind).values())
        self._news = True
        new = [name for name in update.unused if name not in self._told]
        self._told.update(new)
        if new:
            rank_zero_warn(
                f"no batch has used {new} by the time of a mask update: they are pruned and counted like all others, but "
                "without a gradient or momentum to grow by, none of their weights are exchanged. Exclude them if that is "
                "not meant"
            )

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether this batch logs even without an update; known at its start."""
        return logging_due(trainer) or trainer.is_last_batch

    def log(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        groups: Sequence[SparseParameters],
        effective_zeros: Callable[[SparseParameters], float],
    ) -> None:
        """Scalars through the module at the Trainer's cadence, after updates and at an epoch's end; layers to TensorBoard after updates."""
        if not self._news and not self.due(trainer):
            return
        for name, value in scalars(groups, sum(map(effective_zeros, groups))).items():
            pl_module.log(f"sparsity/{name}", value, batch_size=1)
        if not self._news:
            return
        masks = {name: mask for group in groups for name, mask in group.masks.items()}
        if self.layers and trainer.is_global_zero:
            for logger in trainer.loggers:
                if is_lightning(logger, "TensorBoardLogger"):
                    self._draw(logger.experiment, masks, trainer.fit_loop.total_batch_idx)
        self._previous, self._counts, self._news = masks, {}, False

    def table(self, groups: Sequence[SparseParameters], kinds: Mapping[str, LayerKind | None]) -> None:
        """Print the table."""
        if self.summary and groups:
            Console().print(layer_table(groups, kinds))

    def _draw(self, experiment: Any, masks: dict[str, Tensor], step: int) -> None:
        for kind, number in self._counts.items():
            experiment.add_scalar(f"sparsity_update/{kind}", number, step)
        joined = [mask.flatten() for mask in masks.values()]
        if self._counts and self._previous.keys() == masks.keys():
            before = torch.cat([mask.flatten() for mask in self._previous.values()])
            experiment.add_scalar("sparsity_update/overlap", overlap(torch.cat(joined), before), step)
        for name, mask in masks.items():
            experiment.add_scalar(f"sparsity_layer/{name}", 1 - mask.float().mean().item(), step)
            experiment.add_image(f"mask/{name}", mask_image(mask), step)
