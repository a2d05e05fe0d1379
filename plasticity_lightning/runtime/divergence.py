"""Says once that a run has diverged, and ends it: a loss that is no number does not become one again.

The loss that `training_step` returns is watched, and the metrics logged under a name with "loss" in it, for modules that
optimise by hand. The flag stays on the device; it is read at the Trainer's logging cadence, at an epoch's end and before a
checkpoint is written, so that no file of a diverged state replaces a sound one.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.exact_loops import WholeMoments

__all__ = ["DivergedError", "DivergenceGuard"]


class DivergedError(UserError, ArithmeticError):
    """The loss is not finite any more."""

    status = 3


class DivergenceGuard(WholeMoments, Callback):
    """Watches for losses that are NaN or infinite.

    Args:
        action: "stop" ends the run with DivergedError (the command's exit status is 3), "warn" says so once and goes on.

    Raises:
        ValueError: for another action.
    """

    def __init__(self, action: Literal["stop", "warn"] = "stop") -> None:
        if action not in ("stop", "warn"):
            raise ValueError(f"action={action!r} must be 'stop' or 'warn'")
        self.action = action
        self._bad: Tensor | None = None
        self._said = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a loss that is not finite."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            bad = ~torch.isfinite(loss.detach()).all()
            self._bad = bad if self._bad is None else self._bad | bad

    def on_batch_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the Trainer's logging cadence; on the CPU, where looking costs nothing, after every batch."""
        if logging_due(trainer) or (trainer.world_size == 1 and pl_module.device.type == "cpu"):
            self.check(trainer)

    def on_epoch_complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look."""
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Say it if the loss was not finite since the last look. All ranks call it together.

        Raises:
            DivergedError: with `action="stop"`.
        """
        bad = self._bad is not None and bool(self._bad)
        if not trainer.lightning_module.automatic_optimization:
            logged = [v for k, v in trainer.callback_metrics.items() if "loss" in k and isinstance(v, Tensor)]
            bad = bad or any(not bool(torch.isfinite(v).all()) for v in logged)
        self._bad = None
        if self._said or not trainer.strategy.reduce_boolean_decision(bad, all=False):
            return
        self._said = True
        batch = trainer.fit_loop.total_batch_idx + 1
        message = f"the run has diverged: the loss is not finite by batch {batch} (epoch {trainer.current_epoch})"
        if self.action == "stop":
            raise DivergedError(f"{message}. The checkpoints are of before; a smaller learning rate may help")
        rank_zero_warn(message)
