"""Random number generators that survive a checkpoint: torch, CUDA, Python and numpy, of every rank.

They are restored in `on_train_start`, the last hook before the first batch: set-up code, sanity checks and loaders draw numbers in between.
"""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

__all__ = ["RNGState"]


class RNGState(Callback):
    """Saves all global random states with each checkpoint and restores them when training resumes."""

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """States by rank. Collective: every rank takes part in saving a checkpoint."""
        return {"ranks": _of_all_ranks(_capture())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until training starts."""
        self._restored = state_dict["ranks"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore this rank's states, once."""
        if self._restored is None:
            return
        if trainer.global_rank < len(self._restored):
            _restore(self._restored[trainer.global_rank])
        else:
            pl.utilities.rank_zero_warn(
                f"the checkpoint holds random states of {len(self._restored)} ranks, this run has {trainer.world_size}: resuming is not exact"
            )
        self._restored = None


def _capture() -> dict[str, Any]:
    version, keys, gauss = random.getstate()
    name, state, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global state is what must survive
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": (version, tuple(keys), gauss),
        # plain types and tensors only: checkpoints are read with weights_only=True
        "numpy": (str(name), torch.from_numpy(np.asarray(state, dtype=np.int64)), int(position), int(has_gauss), float(cached)),
    }


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys_np, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys_np.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002


def _of_all_ranks(state: dict[str, Any]) -> list[dict[str, Any]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [state]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, state)
    return everyone
