"""Saves the states of all random generators in the checkpoint, one set per rank, for exact resume.

They are restored in `on_train_start`, the last hook before the first batch: set-up code, sanity checks and loaders
draw numbers before it. All is stored as tensors, numbers and tuples, which `torch.load(weights_only=True)` reads.
"""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["RNGState", "get_rng_state", "set_rng_state"]


def get_rng_state() -> dict[str, Any]:
    """The states of torch (CPU and all CUDA devices), Python and numpy, loadable with `weights_only=True`."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global generator is meant
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (
            name,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `get_rng_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002


class RNGState(Callback):
    """Makes a resumed run draw the random numbers that the uninterrupted one would have drawn.

    The checkpoint holds one state per rank; with another number of ranks no exact continuation exists.

    Args:
        strict: refuse to resume with another number of ranks; False goes on with fresh random states and a warning.
    """

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self._loaded: list[dict[str, Any]] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gather the states of all ranks; every rank must call this, as Lightning's saving does."""
        states: list[Any] = [get_rng_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, get_rng_state())
        checkpoint["rng_state"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._loaded = checkpoint.get("rng_state")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this rank's state.

        Raises:
            ValueError: if the checkpoint was written by another number of ranks and `strict` holds.
        """
        if self._loaded is None:
            return
        states, self._loaded = self._loaded, None
        if len(states) == trainer.world_size:
            set_rng_state(states[trainer.global_rank])
            return
        message = f"the checkpoint holds random states of {len(states)} ranks, this run has {trainer.world_size}"
        if self.strict:
            raise ValueError(f"{message}; resume with devices={len(states)}, or set strict=False for an inexact resume")
        rank_zero_warn(f"{message}; the run goes on with fresh random states")
