"""A batch of transitions, and the choice that it comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "Draw"]


@dataclass(frozen=True)
class Draw:
    """Which transitions a batch holds, before anything is read.

    Args:
        stream: int64 [B], the environment.
        slot: int64 [B], the slot of the observation's newest frame.
        shift: int64 [2, B, 2], rows and columns of the random shift of obs and next_obs, in 0..2 pad.
    """

    stream: np.ndarray
    slot: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Batch:
    """B transitions.

    Args:
        obs: [B, S * C, H, W] in channels_last memory; x/255 - 0.5, or uint8 as it was.
        action: float32 [B, A] or int64 [B].
        reward: float32 [B], n-step return.
        discount: float32 [B], gamma^n times the environment's discounts; 0 at a true termination.
        next_obs: as obs, n steps on.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same on `device`; itself if it is there."""
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))
