"""A condensed layer as one differentiable function, with the back end that fits its tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plasticity_lightning.sparsity.condensed.contract import Backend, Engine, check_arguments, check_backend
from plasticity_lightning.sparsity.condensed.cpu import CPU
from plasticity_lightning.sparsity.condensed.gpu import TRITON
from plasticity_lightning.sparsity.condensed.layout import Condensed
from plasticity_lightning.sparsity.condensed.reference import REFERENCE

__all__ = ["condensed_linear"]

_COMPILED = (torch.float32, torch.float64)  # what numba computes with


def condensed_linear(x: Tensor, weight: Condensed, bias: Tensor | None = None, backend: Backend = "auto") -> Tensor:
    """The product x W^T + bias with W condensed; differentiable once, for x, the values and the bias.

    Args:
        x: [..., in], of the values' dtype and device.
        weight: of `layout.condense`; its values may require gradients, which are those of the masked dense layer.
        bias: [out] or None. An output without a weight gives its bias, or 0.
        backend: "auto" takes `triton` on CUDA, `cpu` for float32 and float64 on a CPU, else `reference`.

    Returns:
        [..., out].

    Raises:
        ValueError: if x or bias do not fit, the back end is unknown, or cannot take such tensors.
    """
    values, index, counts, rows, (n_outputs, n_inputs) = weight
    check_arguments(x, weight, bias)
    engine = _engine(backend, values)
    flat = x.ndim == 2 and x.is_contiguous()  # these checks count: a small product takes microseconds
    samples = x if flat else x.reshape(-1, n_inputs).contiguous()
    whole = len(rows) == n_outputs
    inner = bias if whole or bias is None else bias[rows]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (samples, values, inner)):
        y = _Product.apply(samples, values, index, counts, inner, engine)
    else:
        y = engine.forward(samples, values, index, counts, inner)
    if not whole:
        around = x.new_zeros(n_outputs) if bias is None else bias
        y = around.expand(len(samples), n_outputs).index_copy(1, rows.long(), y)
    return y if x.ndim == 2 else y.view(*x.shape[:-1], n_outputs)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, index: Tensor, counts: Tensor, bias: Tensor | None, engine: Engine
    ) -> Tensor:
        ctx.save_for_backward(x, values, index, counts)
        ctx.engine = engine
        return engine.forward(x, values, index, counts, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, values, index, counts = ctx.saved_tensors
        wants_x, wants_values, _, _, wants_bias, _ = ctx.needs_input_grad
        gx, gv = None, None
        if wants_x or wants_values:
            gx, gv = ctx.engine.backward(g, x, values, index, counts, wants_x, wants_values)
        return gx, gv, None, None, g.sum(0) if wants_bias else None, None


def _engine(backend: str, values: Tensor) -> Engine:
    check_backend(backend)
    if backend == "auto":
        compiled = "cpu" if values.device.type == "cpu" and values.dtype in _COMPILED else "reference"
        backend = "triton" if values.is_cuda else compiled
    if backend == "cpu" and (values.device.type != "cpu" or values.dtype not in _COMPILED):
        raise ValueError(
            f"backend='cpu' takes float32 and float64 on a CPU, got {values.dtype} on {values.device}; use 'auto'"
        )
    return {"reference": REFERENCE, "cpu": CPU, "triton": TRITON}[backend]
