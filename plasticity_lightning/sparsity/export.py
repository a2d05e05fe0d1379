"""What a sparse network becomes when training is over: plain tensors, CSR, 2:4 semi-structured.

Masks are not part of a state_dict; masked weights are plain zeros in it, so a plain module loads it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from plasticity_lightning.sparsity.masks import unpack
from plasticity_lightning.sparsity.structured import is_n_m

__all__ = ["from_csr", "masks_of", "strip", "to_csr", "to_semi_structured"]


def masks_of(packed: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Bool masks by parameter name from a checkpoint's packed ones."""
    return {name: unpack(bits, shapes[name]) for name, bits in packed.items()}


def strip(state_dict: Mapping[str, Tensor], masks: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A plain state_dict in which every masked weight is 0; loads with strict=True into the module without masks.

    Args:
        state_dict: of the trained module, e.g. `checkpoint["state_dict"]`.
        masks: bool, by parameter name.
        prefix: keep only the entries below it and cut it off, e.g. "net." for the network inside a LightningModule.

    Returns:
        Copies by name; the compiler's `_orig_mod.` is taken out of the names.

    Raises:
        ValueError: if a mask names no entry or does not fit it, or the prefix matches nothing.
    """
    plain = {name.replace("_orig_mod.", ""): tensor.detach().clone() for name, tensor in state_dict.items()}
    for name, mask in masks.items():
        if name not in plain:
            raise ValueError(f"the mask {name!r} fits no entry of the state_dict; entries: {list(plain)[:20]}")
        if plain[name].shape != mask.shape:
            raise ValueError(f"mask {name!r} is {tuple(mask.shape)}, the weight {tuple(plain[name].shape)}")
        # not a product: 0 * inf would be NaN
        plain[name].masked_fill_(~mask.to(plain[name].device), 0)
    chosen = {name[len(prefix) :]: tensor for name, tensor in plain.items() if name.startswith(prefix)}
    if not chosen:
        raise ValueError(f"prefix={prefix!r} matches no entry; entries: {list(plain)[:20]}")
    return chosen


def to_csr(weight: Tensor, mask: Tensor) -> Tensor:
    """The living weights as a CSR matrix [out, in * kernel]; a living weight of exactly 0 is not stored.

    Raises:
        ValueError: if mask and weight do not agree.
    """
    if weight.shape != mask.shape:
        raise ValueError(f"the mask is {tuple(mask.shape)}, the weight {tuple(weight.shape)}")
    return (weight.detach() * mask).flatten(1).to_sparse_csr()


def from_csr(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The dense weight [out, in, ...] of `to_csr`."""
    return matrix.to_dense().view(shape)


def to_semi_structured(weight: Tensor, mask: Tensor) -> Tensor:
    """A Linear's weight in torch's 2:4 format, which the sparse units of Nvidia GPUs (Ampere and later) multiply.

    Args:
        weight: [out, in] on a CUDA device, float16 or bfloat16; sizes as torch asks for (multiples of 32 and 64).
        mask: bool, at most 2 of 4 consecutive inputs.

    Raises:
        ValueError: if the weight is no matrix, not on a CUDA device, or the mask is not 2:4.
    """
    if weight.ndim != 2:
        raise ValueError(f"2:4 export is for matrices; this weight is {tuple(weight.shape)}")
    if not is_n_m(mask, 2, 4):
        raise ValueError("the mask has more than 2 of 4 consecutive inputs: train with structure='2:4'")
    if weight.device.type != "cuda":
        raise ValueError(f"torch's 2:4 format exists on CUDA devices only; the weight is on {weight.device}")
    return torch.sparse.to_sparse_semi_structured((weight.detach() * mask).contiguous())
