"""The back end for CUDA: Triton kernels, float32, float64, float16 and bfloat16, sums in float32 or wider.

Triton is imported when a layer first runs on it. Under TRITON_INTERPRET=1 (for tests) it takes tensors on the CPU.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.sparsity.condensed.contract import Engine

__all__ = ["TRITON"]


def _forward(x: Tensor, values: Tensor, index: Tensor, counts: Tensor, bias: Tensor | None) -> Tensor:
    _check(x)
    from plasticity_lightning.sparsity.condensed import _triton_kernels as kernels

    (b, n), k = (len(x), len(values)), values.shape[1]
    y = x.new_empty(n, b)
    if y.numel():
        options, block = _options(x)
        kernels.forward[(n, -(-b // block))](
            x.t().contiguous(), values, index, counts, values if bias is None else bias, y, b, k, bias is not None, **options
        )  # fmt: skip
    return y.t().contiguous()


def _backward(
    g: Tensor, x: Tensor, values: Tensor, index: Tensor, counts: Tensor, wants_x: bool, wants_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    _check(x)
    from plasticity_lightning.sparsity.condensed import _triton_kernels as kernels

    (b, n), k = (len(x), len(values)), values.shape[1]
    turned, options, block = g.t().contiguous(), *_options(x)
    gx, gv = None, None
    if wants_x:
        wide = torch.zeros(x.shape[1], b, device=x.device, dtype=_wide(x.dtype))
        if turned.numel():
            kernels.inputs_backward[(n, -(-b // block))](turned, values, index, counts, wide, b, k, **options)
        gx = wide.t().to(x.dtype).contiguous()
    if wants_values:
        gv = torch.zeros_like(values)
        if gv.numel() and b:
            kernels.values_backward[(n, k)](turned, x.t().contiguous(), index, counts, gv, b, k, **options)
    return gx, gv


TRITON = Engine(_forward, _backward)


def _check(x: Tensor) -> None:
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"backend='triton' needs tensors on CUDA, got one on {x.device}; use backend='auto'")


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _options(x: Tensor) -> tuple[dict[str, Any], int]:
    """Compile-time constants of the kernels, and how many samples one program computes."""
    import triton.language as tl

    block = max(16, min(256, 1 << (max(1, len(x)) - 1).bit_length()))
    return {"ACC": tl.float64 if x.dtype == torch.float64 else tl.float32, "BLOCK_B": block}, block
