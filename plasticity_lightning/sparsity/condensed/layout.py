"""The condensed form of a sparse matrix: of each output only its living weights and where they read.

A weight [out, in] becomes values and inputs [n, k], n the outputs that have any weight, k the largest fan-in among them. With
constant fan-in nothing is wasted; a shorter row is padded at its end, and no back end computes with the padding. Outputs
without a weight are left out: what they give is their bias.

Source: Lasby et al. 2024 (SRigL), section 4.4, "condensed" layers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from plasticity_lightning.sparsity.masks import dead_outputs

__all__ = ["Condensed", "condense", "expand", "padding_share"]


class Condensed(NamedTuple):
    """A sparse matrix without its zeros.

    Attributes:
        values: [n, k], 0 in the padding.
        index: [n, k], the input of each value, ascending in a row; int16 up to 32,767 inputs, else int32; 0 in the padding.
        counts: int32 [n], how many entries of each row are not padding, at least 1.
        rows: int32 [n], the output of each row, ascending.
        shape: (out, in).
    """

    values: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    counts: Tensor
    rows: Tensor
    shape: tuple[int, int]


def condense(weight: Tensor, mask: Tensor | None = None) -> Condensed:
    """The living weights of a matrix.

    Args:
        weight: [out, in].
        mask: bool, the same shape: what lives; None takes what is not 0.

    Raises:
        ValueError: if the weight is no matrix, or the mask does not fit it.
    """
    if weight.ndim != 2:
        raise ValueError(f"a condensed layer is made of a matrix [out, in]; this weight is {tuple(weight.shape)}")
    mask = weight != 0 if mask is None else mask.to(weight.device)
    if mask.shape != weight.shape:
        raise ValueError(f"the mask is {tuple(mask.shape)}, the weight {tuple(weight.shape)}")
    rows = (~dead_outputs(mask)).nonzero().squeeze(1)
    living = mask[rows]
    counts = living.sum(1)
    k = int(counts.max()) if len(rows) else 0
    # a stable sort of "absent" brings the living inputs of each row to its front, in their order
    index = (~living).to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
    padding = torch.arange(k, device=weight.device) >= counts[:, None]
    values = weight.detach()[rows].gather(1, index).masked_fill_(padding, 0)
    narrow = torch.int16 if weight.shape[1] <= torch.iinfo(torch.int16).max else torch.int32
    return Condensed(
        values.contiguous(),
        index.masked_fill(padding, 0).to(narrow).contiguous(),
        counts.to(torch.int32),
        rows.to(torch.int32),
        (weight.shape[0], weight.shape[1]),
    )


def expand(condensed: Condensed) -> Tensor:
    """The dense weight [out, in] of `condense`."""
    values, index, counts, rows, shape = condensed
    dense = values.new_zeros(shape)
    living = torch.arange(values.shape[1], device=values.device) < counts[:, None]
    at = rows.long()[:, None].expand_as(living)[living], index.long()[living]
    dense[at] = values.detach()[living]
    return dense


def padding_share(condensed: Condensed) -> float:
    """Padding over all stored values, in [0, 1); 0 for constant fan-in."""
    stored = condensed.values.numel()
    return 1 - int(condensed.counts.sum()) / stored if stored else 0.0
