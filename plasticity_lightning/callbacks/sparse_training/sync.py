"""Equal masks where weights have copies: on the ranks of a DDP run and in running averages of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from plasticity_lightning.sparsity.selection import plain_name
from plasticity_lightning.sparsity.silence import silence_copies
from plasticity_lightning.sparsity.sparse_parameters import SparseParameters

__all__ = ["assert_equal_on_all_ranks", "broadcast_from_rank_zero", "mask_averages"]


def broadcast_from_rank_zero(tensor: Tensor) -> None:
    """Overwrite the tensor with rank 0's; a collective, so every rank must call it."""
    torch.distributed.broadcast(tensor, 0)


def assert_equal_on_all_ranks(group: SparseParameters, trainer: pl.Trainer) -> None:
    """Compare one number per rank, made of all masks; a collective if there are several ranks.

    Raises:
        RuntimeError: if a rank has other masks.
    """
    if trainer.world_size == 1:
        return
    mine = group.checksum()
    sums = [torch.empty_like(mine) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(sums, mine)
    numbers = torch.stack(sums).tolist()
    if len(set(numbers)) > 1:
        raise RuntimeError(f"masks differ between ranks after an update; checksums by rank: {numbers}")


def mask_averages(trainer: pl.Trainer, masks: Mapping[str, Tensor]) -> None:
    """Mask the averaged weights that Lightning's WeightAveraging and StochasticWeightAveraging keep.

    An average over steps before a mask update has weights where the new mask has none; between updates it cannot get
    any. Lightning names the average `_average_model` in both callbacks and offers no public access.
    """
    for callback in trainer.callbacks:
        average: Any = getattr(callback, "_average_model", None)
        if isinstance(average, torch.optim.swa_utils.AveragedModel):
            average = average.module
        if isinstance(average, torch.nn.Module):
            silence_copies({plain_name(name): p for name, p in average.named_parameters()}, masks)
