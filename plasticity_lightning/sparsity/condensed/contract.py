"""What a back end of condensed layers computes: one forward and one backward function of plain tensors.

    forward    y[b, r] = bias[r] + sum over j < counts[r] of values[r, j] * x[b, index[r, j]]
    backward   gx[b, i] = sum of g[b, r] * values[r, j] where index[r, j] = i;   gv[r, j] = sum over b of g[b, r] * x[b, index[r, j]]

`reference` is readable and slow and is the oracle of the others; `cpu` is compiled by numba, `triton` runs on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from plasticity_lightning.errors import nearest
from plasticity_lightning.sparsity.condensed.layout import Condensed

__all__ = ["Backend", "Engine", "check_arguments", "check_backend"]

Backend = Literal["auto", "reference", "cpu", "triton"]


class Engine(NamedTuple):
    """A back end; x [B, in], values and index [n, k], counts int32 [n], bias [n] or None, g [B, n]; contiguous but for g."""

    forward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
    """(x, values, index, counts, bias) -> y [B, n]."""
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, bool, bool], tuple[Tensor | None, Tensor | None]]
    """(g, x, values, index, counts, wants gx, wants gv) -> (gx [B, in] or None, gv [n, k] or None); gv is 0 in the padding."""


def check_backend(backend: str) -> None:
    """Refuse an unknown name.

    Raises:
        ValueError: naming the nearest one.
    """
    if backend not in get_args(Backend):
        choices = get_args(Backend)
        raise ValueError(
            f"backend must be one of {', '.join(choices)}, got {backend!r}{nearest(str(backend), choices)}"
        )


def check_arguments(x: Tensor, weight: Condensed, bias: Tensor | None) -> None:
    """Refuse what does not fit together: compiled kernels believe sizes and types.

    Raises:
        ValueError: if x or the bias do not fit the weight in size, dtype or device, or a part of the weight does not fit the others.
    """
    values, index, counts, _, (n_outputs, n_inputs) = weight
    if x.ndim == 0 or x.shape[-1] != n_inputs:
        raise ValueError(f"the layer reads {n_inputs} inputs along the last dimension, x is {tuple(x.shape)}")
    if x.dtype != values.dtype or x.device != values.device:
        raise ValueError(
            f"x is {x.dtype} on {x.device}, the layer {values.dtype} on {values.device}; convert one with .to(...)"
        )
    if values.dtype not in _NUMBERS:
        raise ValueError(f"condensed layers compute with real floating numbers, not {values.dtype}")
    if bias is not None and (bias.dtype != x.dtype or bias.shape != (n_outputs,) or not bias.is_contiguous()):
        raise ValueError(
            f"bias must be {x.dtype}, contiguous and of size {n_outputs}; it is {bias.dtype}, {tuple(bias.shape)}"
        )
    if index.shape != values.shape or counts.dtype != torch.int32 or len(counts) != len(values):
        raise ValueError(
            f"index {tuple(index.shape)} and counts {counts.dtype} {tuple(counts.shape)} do not fit values "
            f"{tuple(values.shape)}; `condense` makes what does"
        )
    if not (values.is_contiguous() and index.is_contiguous() and counts.is_contiguous()):
        raise ValueError("values, index and counts must be contiguous; `condense` makes them so")


_NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
