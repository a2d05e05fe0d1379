"""Parseval regularisation of chosen layers."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import Optimizer

from plasticity_lightning.callbacks.interventions.triggered import refuse_sharded
from plasticity_lightning.interventions.parseval import add_parseval_gradient, parseval_penalty
from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.loss_gradient import adding_to_gradients

__all__ = ["Parseval"]


class Parseval(Callback):
    """Adds strength * F(W W^T - s I)^2 of each chosen weight to the loss, through its gradient.

    Args:
        strength: lambda, at least 0.
        scale: s, the squared length of the rows, positive.
        modules: shell patterns over the names of layers with a weight matrix. The output layer of a network is usually
            left out.

    Logs:
        `intervention/parseval/penalty`, the term of the loss, every `log_every_n_steps` batches.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, if a pattern matches no layer with a trainable weight matrix.

    Source: Chung et al. 2024.
    """

    def __init__(self, strength: float = 1e-3, scale: float = 1.0, modules: str | list[str] = "*") -> None:
        if strength < 0:
            raise ValueError(f"strength={strength} must not be negative")
        if scale <= 0:
            raise ValueError(f"scale={scale} must be positive")
        self.strength, self.scale = strength, scale
        self.patterns = [modules] if isinstance(modules, str) else list(modules)
        self._weights: dict[int, nn.Parameter] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers."""
        refuse_sharded(trainer, type(self).__name__)
        if stage != "fit":
            return
        announce_coverage(trainer)
        matrices: dict[str, nn.Parameter] = {}
        for name, module in pl_module.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim > 1 and weight.requires_grad:
                matrices[name] = weight
        self._weights = {}
        for pattern in self.patterns:
            found = {id(weight): weight for name, weight in matrices.items() if fnmatchcase(name, pattern)}
            if not found:
                raise MisconfigurationException(
                    f"Parseval: modules={pattern!r} matches no layer with a trainable weight matrix; there are {list(matrices)}"
                )
            self._weights |= found

    def coverage(self, trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
        """See `protocols.HasCoverage`."""
        return [
            CoverageRow("Parseval", name, "penalised", "")
            for name, p in pl_module.named_parameters()
            if id(p) in self._weights
        ]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the gradient of the penalty for the weights of this optimiser."""
        adding_to_gradients(pl_module, optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._weights:
                    add_parseval_gradient(parameter, self.strength, self.scale)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the penalty."""
        if logging_due(trainer):
            with torch.no_grad():
                terms = [parseval_penalty(weight, self.scale).float() for weight in self._weights.values()]
                pl_module.log("intervention/parseval/penalty", self.strength * torch.stack(terms).sum(), batch_size=1)
