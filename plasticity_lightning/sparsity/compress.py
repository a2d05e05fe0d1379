"""A sparse network in a form that stores, and where it pays multiplies, its living weights only.

    condensed   Linear layers as `condensed.CondensedLinear`: fastest, and needs this package to run
    csr         Linear layers as torch's CSR matrices: no package beside torch
    2:4         weights as they are, checked: torch's 2:4 kernels on GPUs take them, a CPU computes with the zeros
    dense       weights as they are

What lives is what is not 0, so any checkpoint serves, whoever made its zeros. Convolutions stay dense in `condensed` and
`csr`: written as a product of matrices they would read their input once for every position of the kernel.
"""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from plasticity_lightning.errors import nearest
from plasticity_lightning.sparsity.condensed import CondensedLinear, padding_share
from plasticity_lightning.sparsity.structured import is_n_m, limit_mask

__all__ = ["CSRLinear", "CompressedLayer", "Format", "check_format", "compress", "zeros_share"]

Format = Literal["csr", "condensed", "2:4", "dense"]


class CompressedLayer(NamedTuple):
    """What became of one layer."""

    name: str
    shape: tuple[int, ...]
    zeros: float
    """Share of zeros among its weights, before."""
    form: Format
    note: str
    """Why it stayed dense, or what its form costs; may be empty."""


class CSRLinear(nn.Module):
    """A Linear with its weight as a CSR matrix.

    Args:
        linear: whose zeros are left out.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        matrix = linear.weight.detach().to_sparse_csr()
        # 32 bits: with 64 torch converts the indices at every call, which takes as long as a small product
        positions = matrix.crow_indices().int(), matrix.col_indices().int()
        self.register_buffer(
            "weight", torch.sparse_csr_tensor(*positions, matrix.values(), matrix.shape, check_invariants=True)
        )
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.out_features = linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y = nn.functional.linear(
            x.reshape(-1, x.shape[-1]), cast(Tensor, self.weight), cast("Tensor | None", self.bias)
        )
        return y.view(*x.shape[:-1], self.out_features)


def check_format(format: str) -> None:
    """Refuse an unknown format.

    Raises:
        ValueError: naming the nearest one.
    """
    if format not in get_args(Format):
        known = get_args(Format)
        raise ValueError(f"format must be one of {', '.join(known)}, got {format!r}{nearest(str(format), known)}")


def zeros_share(weight: Tensor) -> float:
    """Share of exact zeros, in [0, 1]."""
    return 1 - int(weight.detach().count_nonzero()) / max(1, weight.numel())


def compress(
    network: nn.Module, format: Format, min_sparsity: float = 0.5, project: bool = False
) -> tuple[nn.Module, list[CompressedLayer]]:
    """A copy of the network for inference, and one row for each Linear and convolution.

    Args:
        network: left as it is.
        format: see above.
        min_sparsity: layers with a smaller share of zeros stay dense, in [0, 1].
        project: for 2:4, set the smallest weights beyond two of four to 0 in layers that are not 2:4; outputs change.

    Raises:
        ValueError: if an argument is out of range, a sparse layer is not 2:4, or no layer at all is sparse enough for the
            format and of a kind that it takes (but for "dense").
    """
    check_format(format)
    if not 0 <= min_sparsity <= 1:
        raise ValueError(f"min_sparsity={min_sparsity} must lie in [0, 1]")
    if project and format != "2:4":
        raise ValueError(f"project=True makes weights 2:4; format is {format!r}")
    smaller = copy.deepcopy(network).eval().requires_grad_(False)
    layers = {name: m for name, m in smaller.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
    zeros = {name: zeros_share(layer.weight) for name, layer in layers.items()}
    sparse = [name for name in layers if zeros[name] >= min_sparsity]
    if format != "dense" and not sparse:
        sparsest = max(zeros, key=zeros.__getitem__, default=None)
        most = f"; the sparsest, {sparsest}, has {zeros[sparsest]:.1%} zeros" if sparsest is not None else ""
        raise ValueError(f"the network is dense: no Linear or convolution has {min_sparsity:.0%} zeros{most}")
    if format == "2:4" and not project:
        _refuse_other_than_2_4({name: layers[name].weight for name in sparse})
    rows: list[CompressedLayer] = []
    replaced: dict[nn.Module, nn.Module] = {}
    for name, layer in layers.items():
        shape = tuple(layer.weight.shape)
        if name not in sparse or format == "dense":
            note = "" if format == "dense" else f"less than {min_sparsity:.0%} zeros"
            rows.append(CompressedLayer(name, shape, zeros[name], "dense", note))
            continue
        new, form, note = _two_of_four(layer, project) if format == "2:4" else _without_zeros(layer, format)
        replaced[layer] = new
        rows.append(CompressedLayer(name, shape, zeros[name], form, note))
    if not any(row.form == format for row in rows):
        reasons = ", ".join(f"{row.name or 'it'} ({row.note})" for row in rows)
        raise ValueError(f"no layer can be {format}: {reasons}")
    _replace(smaller, replaced)
    return replaced.get(smaller, smaller), rows


def _without_zeros(layer: nn.Module, format: Format) -> tuple[nn.Module, Format, str]:
    # a subclass may do more than multiply, or its owner read its weight: attention does
    if type(layer) is not nn.Linear:
        kind = "convolution" if isinstance(layer, nn.modules.conv._ConvNd) else f"{type(layer).__name__}"
        return layer, "dense", f"a {kind}"
    if format == "csr":
        return CSRLinear(layer), "csr", ""
    condensed = CondensedLinear.from_dense(layer).requires_grad_(False).eval()
    notes = [f"fan-in {condensed.values.shape[1]}", f"padding {padding_share(condensed.condensed):.1%}"]
    left_out = layer.out_features - len(condensed.values)
    if left_out:
        notes.append(f"{left_out} outputs without weights")
    return condensed, "condensed", ", ".join(notes)


def _two_of_four(layer: nn.Module, project: bool) -> tuple[nn.Module, Format, str]:
    weight = cast(Tensor, layer.weight)
    if weight.shape[1] % 4:
        return layer, "dense", "its inputs do not divide into fours"
    if project:
        with torch.no_grad():
            weight.mul_(limit_mask(weight.abs(), 2, 4))
    fits = type(layer) is nn.Linear and weight.shape[0] % 32 == 0 and weight.shape[1] % 64 == 0
    return layer, "2:4", "" if fits else "2:4, but of no size that torch's kernel takes (Linear, out by 32, in by 64)"


def _refuse_other_than_2_4(weights: dict[str, Tensor]) -> None:
    others = [name for name, w in weights.items() if w.shape[1] % 4 == 0 and not is_n_m(w != 0, 2, 4)]
    if others:
        raise ValueError(
            f"{', '.join(others[:5])} {'is' if len(others) == 1 else 'are'} not 2:4 (more than 2 of 4 consecutive inputs): "
            "train with structure='2:4', or ask for the projection, which changes the outputs"
        )


def _replace(network: nn.Module, new: dict[nn.Module, nn.Module]) -> None:
    """At every place where a layer stands: one that is shared stays shared."""
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
