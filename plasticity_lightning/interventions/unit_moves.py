"""How the dimension that counts a layer's units moves through torch's functions, by the functions' names.

`UnitTag` says where the units of a producer stand in one tensor. Functions that keep every unit in its place are listed;
reshapes, reductions and permutations compute the new place, or None where units are mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["NONLINEAR", "POOLED", "RESHAPED", "SAME", "SCALED", "UnitTag", "permuted", "reduced", "reshaped"]

NONLINEAR = frozenset(
    [
        "relu",
        "relu_",
        "gelu",
        "tanh",
        "tanh_",
        "sigmoid",
        "sigmoid_",
        "silu",
        "leaky_relu",
        "leaky_relu_",
        "elu",
        "elu_",
        "selu",
        "selu_",
        "celu",
        "celu_",
        "prelu",
        "softplus",
        "hardtanh",
        "hardtanh_",
        "relu6",
        "mish",
        "hardswish",
        "hardsigmoid",
        "softsign",
        "clamp",
        "clamp_",
        "clamp_min",
        "clamp_min_",
        "threshold",
        "threshold_",
        "rrelu",
        "logsigmoid",
        "tanhshrink",
        "softshrink",
        "hardshrink",
        "sin",
    ]
)
SAME = frozenset(
    [
        "dropout",
        "dropout_",
        "feature_dropout",
        "alpha_dropout",
        "feature_alpha_dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "clone",
        "detach",
        "contiguous",
        "to",
        "float",
        "half",
        "bfloat16",
        "double",
        "type",
        "type_as",
        "cuda",
        "cpu",
        "requires_grad_",
        "retain_grad",
        "batch_norm",
        "instance_norm",
        "layer_norm",
        "rms_norm",
        "group_norm",
    ]
)
SCALED = frozenset(
    [
        "mul",
        "mul_",
        "multiply",
        "div",
        "div_",
        "true_divide",
        "__mul__",
        "__rmul__",
        "__truediv__",
        "__imul__",
        "__itruediv__",
        "neg",
        "__neg__",
    ]
)
POOLED = frozenset(
    f"{kind}_pool{n}d{suffix}"
    for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp")
    for n in (1, 2, 3)
    for suffix in ("", "_with_indices")
) | {"interpolate", "upsample", "pad"}
RESHAPED = frozenset(["view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "squeeze_", "unsqueeze_"])


@dataclass(frozen=True)
class UnitTag:
    """The units of one producer in a tensor.

    Args:
        producer: name of the layer.
        dim: the dimension of units.
        block: consecutive entries of that dimension that belong to one unit.
        active: a nonlinearity has been applied.
    """

    producer: str
    dim: int
    block: int = 1
    active: bool = False


def reshaped(tag: UnitTag, old: tuple[int, ...], new: tuple[int, ...], units: int) -> UnitTag | None:
    """The dimension of units after a change of shape: it may take in the dimensions behind it, never those before."""
    lead, width = math.prod(old[: tag.dim]), old[tag.dim]
    for dim in range(len(new)):
        if math.prod(new[:dim]) == lead and new[dim] >= units:
            for end in range(tag.dim + 1, len(old) + 1):
                taken = math.prod(old[tag.dim + 1 : end])
                if new[dim] == width * taken:
                    return UnitTag(tag.producer, dim, tag.block * taken, tag.active)
    return None


def reduced(tag: UnitTag, ndim: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> UnitTag | None:
    """After a reduction (mean, sum, amax) with the arguments given; None if it goes over the units, or over all dimensions."""
    given = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if given is None:
        return None
    dims = {d % ndim for d in (given if isinstance(given, tuple | list | torch.Size) else [given])}
    if tag.dim in dims:
        return None
    kept = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    gone = 0 if kept else sum(1 for d in dims if d < tag.dim)
    return UnitTag(tag.producer, tag.dim - gone, tag.block, tag.active)


def permuted(name: str, tag: UnitTag, ndim: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> UnitTag:
    """After permute, transpose or movedim of a tensor with `ndim` dimensions, called with the arguments given."""
    order = torch.empty((1,) * ndim, device="meta")
    marked = order.expand(*(2 if d == tag.dim else 1 for d in range(ndim)))
    result = getattr(torch, name)(marked, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
    return UnitTag(tag.producer, list(result.shape).index(2), tag.block, tag.active)
