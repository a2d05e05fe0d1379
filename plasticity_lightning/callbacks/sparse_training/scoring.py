"""The Hessian-gradient product that GraSP needs, from a stranger's training_step.

Source: Wang et al. 2020, eq. 8. Its temperature of 200 on the logits is left out: a training_step returns a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

__all__ = ["hessian_gradients"]


def hessian_gradients(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    batch: Any,
    batch_idx: int,
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, Tensor]:
    """H g of this batch's loss over the given parameters, averaged over ranks.

    Runs training_step once more, without logging. Buffers such as BatchNorm's statistics see the batch twice.

    Raises:
        MisconfigurationException: if training_step returns no loss.
    """
    with torch.enable_grad(), _silent(pl_module), trainer.precision_plugin.train_step_context():
        output = pl_module.training_step(batch, batch_idx)
        loss = output["loss"] if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise MisconfigurationException(f"init_by='grasp' needs training_step to return a loss, got {type(output)}")
        weights = list(parameters.values())
        gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        flow = torch.stack([(g * g.detach()).sum() for g in gradients if g is not None and g.requires_grad]).sum()
        products = torch.autograd.grad(flow, weights, allow_unused=True)
    result = {name: p for name, p in zip(parameters, products, strict=True) if p is not None}
    return {name: trainer.strategy.reduce(p.detach(), reduce_op="mean") for name, p in result.items()}


@contextmanager
def _silent(pl_module: pl.LightningModule) -> Iterator[None]:
    """Let `self.log` do nothing: this forward pass is not a training step."""
    names = ("log", "log_dict")
    for name in names:
        pl_module.__dict__[name] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for name in names:
            del pl_module.__dict__[name]
