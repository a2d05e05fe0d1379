"""Condensed layers as an operator of torch, `torch.ops.plasticity_lightning.condensed_linear`, for graphs that torch records.

`torch.export` writes the operator's name into its file; importing `plasticity_lightning.sparsity.condensed` is all that is
needed to run it. It is for inference; training goes through `function.condensed_linear`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_lightning.sparsity.condensed.function import condensed_linear
from plasticity_lightning.sparsity.condensed.layout import Condensed

__all__ = ["recorded_linear"]

_LIBRARY = torch.library.Library("plasticity_lightning", "DEF")
_LIBRARY.define(
    "condensed_linear(Tensor x, Tensor values, Tensor index, Tensor counts, Tensor rows, Tensor? bias, int out) -> Tensor"
)


@torch.library.impl(_LIBRARY, "condensed_linear", "CompositeExplicitAutograd")
def _run(
    x: Tensor, values: Tensor, index: Tensor, counts: Tensor, rows: Tensor, bias: Tensor | None, out: int
) -> Tensor:
    return condensed_linear(x, Condensed(values, index, counts, rows, (out, x.shape[-1])), bias)


@torch.library.register_fake("plasticity_lightning::condensed_linear", lib=_LIBRARY)
def _shape(
    x: Tensor, values: Tensor, index: Tensor, counts: Tensor, rows: Tensor, bias: Tensor | None, out: int
) -> Tensor:
    return x.new_empty(*x.shape[:-1], out)


def recorded_linear(x: Tensor, weight: Condensed, bias: Tensor | None) -> Tensor:
    """`condensed_linear` as one node of a recorded graph."""
    values, index, counts, rows, (out, _) = weight
    return torch.ops.plasticity_lightning.condensed_linear(x, values, index, counts, rows, bias, out)
