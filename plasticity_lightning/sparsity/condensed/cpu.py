"""The fast back end on a CPU: float32 and float64, compiled by numba, on as many threads as torch has (`torch.set_num_threads`).

Threads divide the samples, or the outputs where there are few samples. Where torch's OpenMP cannot be found (it can on
Linux), there is one thread.
"""

from __future__ import annotations

import ctypes
import threading
from array import array
from functools import cache
from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.sparsity.condensed import openmp
from plasticity_lightning.sparsity.condensed.contract import Engine

__all__ = ["CPU"]

_WORTH_A_THREAD = 20_000  # multiply-adds a thread; below, sharing costs more than it saves
_local = threading.local()


def _forward(x: Tensor, values: Tensor, index: Tensor, counts: Tensor, bias: Tensor | None) -> Tensor:
    (b, n_inputs), (n, k) = x.shape, values.shape
    y = x.new_empty(b, n)
    threads = _threads(b * n * k)
    by_rows = b < 32 * threads
    scratch = 0 if b < 4 else _scratch(threads, n_inputs, n, values)  # single samples are not laid out
    at_bias = 0 if bias is None else bias.data_ptr()
    _run("forward", values, index, threads, (
        0, threads, by_rows, x.data_ptr(), values.data_ptr(), index.data_ptr(), counts.data_ptr(), at_bias, y.data_ptr(),
        0, 0, 0, scratch, b, n_inputs, n, k,
    ))  # fmt: skip
    return y


def _backward(
    g: Tensor, x: Tensor, values: Tensor, index: Tensor, counts: Tensor, wants_x: bool, wants_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    (b, n_inputs), (n, k), g = x.shape, values.shape, g.contiguous()
    threads = min(_threads(2 * b * n * k), max(1, b))
    gx = torch.empty_like(x) if wants_x else None
    gv = values.new_zeros(threads, n, k) if wants_values else None  # each piece adds up its own samples
    _run("backward", values, index, threads, (
        0, threads, False, x.data_ptr(), values.data_ptr(), index.data_ptr(), counts.data_ptr(), 0, 0,
        g.data_ptr(), 0 if gx is None else gx.data_ptr(), 0 if gv is None else gv.data_ptr(),
        _scratch(threads, n_inputs, n, values), b, n_inputs, n, k,
    ))  # fmt: skip
    return gx, None if gv is None else gv[0] if threads == 1 else gv.sum(0)


CPU = Engine(_forward, _backward)


def _threads(work: int) -> int:
    threads = torch.get_num_threads()
    return max(1, min(threads, work // _WORTH_A_THREAD)) if threads > 1 and openmp.available() else 1


def _run(name: str, values: Tensor, index: Tensor, threads: int, order: tuple[int, ...]) -> None:
    function, call = _compiled(name, values.element_size(), index.element_size())
    numbers = array("q", order)
    at, _ = numbers.buffer_info()
    if threads == 1:
        call(at)
    else:
        openmp.run(function, at, threads)


@cache
def _scratch_size(n_inputs: int, n_rows: int) -> int:
    from plasticity_lightning.sparsity.condensed._cpu_kernel import scratch_size

    return scratch_size(n_inputs, n_rows)


@cache
def _compiled(name: str, value_bytes: int, index_bytes: int) -> tuple[int, Any]:
    from plasticity_lightning.sparsity.condensed._cpu_kernel import entry  # numba is slow to import

    function = entry(name, value_bytes, index_bytes)
    # a call by ctypes lets Python's other threads run meanwhile
    return function, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)


def _scratch(pieces: int, n_inputs: int, n_rows: int, values: Tensor) -> int:
    """Address of this thread's work space, kept from call to call: fresh memory of this size would cost a page fault every 4 KiB."""
    size = pieces * _scratch_size(n_inputs, n_rows) * values.element_size()
    space: Tensor | None = getattr(_local, "space", None)
    if space is None or space.numel() < size:
        space = _local.space = torch.empty(size, dtype=torch.uint8)
    return space.data_ptr()
