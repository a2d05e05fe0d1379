"""Triton kernels of condensed layers. Inputs and outputs are laid out [units, samples], so that neighbouring threads read neighbours.

Sums are taken in ACC (float64 for float64, else float32). The gradient of the inputs is summed by atomic additions: where an
input is read by several outputs, the order, and so the last bit, may differ between runs.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["forward", "inputs_backward", "values_backward"]


@triton.jit
def forward(
    x_ptr, values_ptr, index_ptr, counts_ptr, bias_ptr, y_ptr, B, K,
    HAS_BIAS: tl.constexpr, ACC: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0)
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    mask = b < B
    total = tl.zeros([BLOCK_B], dtype=ACC)
    for j in range(tl.load(counts_ptr + r)):
        value = tl.load(values_ptr + r * K + j).to(ACC)
        at = tl.load(index_ptr + r * K + j).to(tl.int64) * B
        total += value * tl.load(x_ptr + at + b, mask=mask, other=0.0).to(ACC)
    if HAS_BIAS:
        total += tl.load(bias_ptr + r).to(ACC)
    tl.store(y_ptr + tl.cast(r, tl.int64) * B + b, total, mask=mask)


@triton.jit
def values_backward(
    g_ptr, x_ptr, index_ptr, counts_ptr, gv_ptr, B, K, ACC: tl.constexpr, BLOCK_B: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0)
    j = tl.program_id(1)
    if j < tl.load(counts_ptr + r):
        at = tl.load(index_ptr + r * K + j).to(tl.int64) * B
        total = tl.zeros([BLOCK_B], dtype=ACC)
        for first in range(0, B, BLOCK_B):
            b = first + tl.arange(0, BLOCK_B)
            mask = b < B
            g = tl.load(g_ptr + tl.cast(r, tl.int64) * B + b, mask=mask, other=0.0).to(ACC)
            total += g * tl.load(x_ptr + at + b, mask=mask, other=0.0).to(ACC)
        tl.store(gv_ptr + r * K + j, tl.sum(total))


@triton.jit
def inputs_backward(
    g_ptr, values_ptr, index_ptr, counts_ptr, gx_ptr, B, K, ACC: tl.constexpr, BLOCK_B: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0)
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    mask = b < B
    g = tl.load(g_ptr + tl.cast(r, tl.int64) * B + b, mask=mask, other=0.0).to(ACC)
    for j in range(tl.load(counts_ptr + r)):
        value = tl.load(values_ptr + r * K + j).to(ACC)
        at = tl.load(index_ptr + r * K + j).to(tl.int64) * B
        tl.atomic_add(gx_ptr + at + b, g * value, mask=mask)
