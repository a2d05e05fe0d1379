"""Lanes over processes: each works on its own rows of tensors that all hold.

An exchange makes the rows of every process known to all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["exchange_lanes"]


def exchange_lanes(tensors: Sequence[Tensor], lanes: range, world_size: int) -> None:
    """Fill in the rows of other processes, in place; a collective.

    Args:
        tensors: each [L, ...], the same on every process but for values; rows outside `lanes` are overwritten.
        lanes: rows that this process owns; those of all processes are all L rows, each once.
        world_size: number of processes; 1 does nothing.
    """
    if world_size == 1:
        return
    mine: list[Tensor] = [tensor[lanes.start : lanes.stop].cpu() for tensor in tensors]
    everyone: list[tuple[int, int, list[Tensor]]] = [(0, 0, [])] * world_size
    torch.distributed.all_gather_object(everyone, (lanes.start, lanes.stop, mine))
    for start, stop, theirs in everyone:
        for tensor, part in zip(tensors, theirs, strict=True):
            tensor[start:stop] = part.to(tensor)
