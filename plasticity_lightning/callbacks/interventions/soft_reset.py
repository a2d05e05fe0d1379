"""Soft reset: weights drift towards their initial values as far as the gradient asks for it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from plasticity_lightning.callbacks.interventions.anchored import Anchored
from plasticity_lightning.interventions.soft_reset import drift_factor, drift_towards
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.updates import begins_anew
from plasticity_lightning.runtime.weight_gate import changing_weights

__all__ = ["SoftReset"]


class SoftReset(Anchored):
    """Before each optimiser step: W <- gamma W + (1 - gamma) W_0, with one gamma per parameter tensor.

    gamma = clip(1 - rate * <g, W - W_0>, lowest, 1): only where the gradient points away from W_0 do weights go back.
    The gradient itself stays that of the step, taken before the drift; the optimiser's moments are kept.

    Args:
        rate: step size on gamma, at least 0.
        lowest: the strongest drift of one step, in [0, 1].
        parameters: shell patterns over parameter names.

    Logs:
        `intervention/soft_reset/drift`, the mean of 1 - gamma over the parameters of the last step, every
        `log_every_n_steps` batches.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: see `Anchored`.

    Source: after Galashov et al. 2024; see `interventions.soft_reset` for what differs.
    """

    def __init__(self, rate: float = 0.01, lowest: float = 0.9, parameters: str | list[str] = "*") -> None:
        if rate < 0:
            raise ValueError(f"rate={rate} must not be negative")
        if not 0 <= lowest <= 1:
            raise ValueError(f"lowest={lowest} must be in [0, 1]")
        super().__init__(parameters)
        self.rate, self.lowest = rate, lowest
        self._drift: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember W_0, unless a checkpoint has brought it."""
        super().on_train_start(trainer, pl_module)
        if begins_anew(trainer):
            self._drift = None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Let the parameters of this optimiser drift."""
        drifts = []
        with changing_weights(pl_module):
            for group in optimizer.param_groups:
                for weight, anchor in zip(*self.pairs(group["params"]), strict=True):
                    if weight.grad is not None:
                        gamma = drift_factor(weight.grad, weight, anchor, self.rate, self.lowest)
                        drift_towards(weight, anchor, gamma)
                        drifts.append(1 - gamma)
        if drifts:
            self._drift = torch.stack(drifts).mean()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the drift."""
        if logging_due(trainer) and self._drift is not None:
            pl_module.log("intervention/soft_reset/drift", self._drift, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """W_0, and the last drift: a batch without a step may log it."""
        return {**super().state_dict(), "drift": self._drift}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both up again."""
        super().load_state_dict(state_dict)
        self._drift = state_dict["drift"]
