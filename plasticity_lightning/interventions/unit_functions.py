"""Torch's functions by what they do to units, by name: tensor methods, `torch.*`, `torch.nn.functional.*`, operators.

A name stands for all its forms. What is in no list mixes units, as far as the tracer knows.
"""

from __future__ import annotations

from plasticity_lightning.measures.nonlinearities import function_names

__all__ = [
    "ATTENTION",
    "ENTRYWISE",
    "HARMLESS",
    "NONLINEAR",
    "POOLED",
    "PRODUCTS",
    "REDUCED",
    "RESHAPED",
    "SAME",
    "VIEWS",
]


def _in_place_too(*names: str) -> frozenset[str]:
    return frozenset(names) | {f"{name}_" for name in names}


NONLINEAR = function_names()
CASTS = frozenset(
    [
        "clone", "detach", "detach_", "contiguous", "to", "float", "half", "bfloat16", "double", "type", "type_as", "cuda",
        "cpu", "requires_grad_", "retain_grad", "alias", "__copy__", "__deepcopy__",
    ]
)  # fmt: skip
SAME = CASTS | frozenset(
    [
        "dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d",
        "dropout3d", "batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm",
    ]
)  # fmt: skip
PRODUCTS = _in_place_too("mul", "multiply", "div", "divide", "true_divide") | {
    "__mul__", "__rmul__", "__truediv__", "__imul__", "__itruediv__", "where", "masked_fill", "masked_fill_",
}  # fmt: skip
ENTRYWISE = _in_place_too("add", "sub", "subtract", "pow", "neg", "rsqrt", "sqrt") | {
    "__add__", "__radd__", "__iadd__", "__sub__", "__rsub__", "__isub__", "__pow__", "__neg__", "negative", "rsub",
    "maximum", "minimum", "gt", "ge", "lt", "le", "__gt__", "__ge__", "__lt__", "__le__", "greater", "less",
}  # fmt: skip
VIEWS = _in_place_too("squeeze", "unsqueeze", "transpose", "t", "swapaxes", "swapdims") | {
    "permute", "movedim", "moveaxis", "expand", "expand_as", "select", "narrow", "chunk", "split", "tensor_split",
    "split_with_sizes", "unbind", "unsafe_chunk", "unsafe_split", "__getitem__", "hsplit", "vsplit", "dsplit", "adjoint",
    "atleast_1d", "atleast_2d", "atleast_3d",
}  # fmt: skip
RESHAPED = frozenset(["view", "reshape", "flatten", "unflatten", "ravel", "view_as", "reshape_as"])
REDUCED = frozenset(["mean", "sum", "amax", "amin", "nanmean", "nansum"])
POOLED = frozenset(
    f"{kind}_pool{n}d{suffix}"
    for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp")
    for n in (1, 2, 3)
    for suffix in ("", "_with_indices")
) | {"interpolate", "upsample", "pad"}
GATHERED = frozenset(
    ["index_select", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_add", "index_add_"]
)
ATTENTION = frozenset(["scaled_dot_product_attention"])
# they return floating-point tensors or numbers that say nothing of a unit's value
HARMLESS = frozenset(
    [
        "dim", "size", "numel", "stride", "is_floating_point", "is_contiguous", "element_size", "data_ptr", "__len__",
        "register_hook", "backward", "storage_offset", "untyped_storage", "is_complex", "get_device", "ndimension",
        "nelement", "__hash__", "__repr__", "__format__", "record_stream", "zeros_like", "ones_like", "empty_like",
        "rand_like", "randn_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor",
    ]
)  # fmt: skip
