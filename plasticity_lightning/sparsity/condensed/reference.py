"""Condensed layers by torch's gather: the oracle of the other back ends, on any device and in any real dtype.

It gathers [B, n, k] numbers, k times the output, so it is slow and large; its gradients are torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_lightning.sparsity.condensed.contract import Engine

__all__ = ["REFERENCE", "forward"]


def forward(x: Tensor, values: Tensor, index: Tensor, counts: Tensor, bias: Tensor | None) -> Tensor:
    """See `contract.Engine`; differentiable."""
    living = torch.arange(values.shape[1], device=values.device) < counts[:, None]
    read = x[:, index.long()]  # [B, n, k]
    products = torch.where(living, values * read, 0)  # not a product with a mask: the padding may read an infinity
    y = products.sum(2)
    return y if bias is None else y + bias


def _backward(
    g: Tensor, x: Tensor, values: Tensor, index: Tensor, counts: Tensor, wants_x: bool, wants_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    with torch.enable_grad():
        inputs = x.detach().requires_grad_(wants_x), values.detach().requires_grad_(wants_values)
        y = forward(*inputs, index, counts, None)
    gradients = iter(torch.autograd.grad(y, [t for t in inputs if t.requires_grad], g))
    return next(gradients) if wants_x else None, next(gradients) if wants_values else None


REFERENCE = Engine(forward, _backward)
