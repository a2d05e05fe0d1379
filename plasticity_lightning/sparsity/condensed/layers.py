"""`CondensedLinear`: a Linear whose weights are stored and multiplied without their zeros, for inference or training on.

Its positions are fixed: where a weight was 0 (or masked) when it was made, there is none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plasticity_lightning.sparsity.condensed.contract import Backend, check_backend
from plasticity_lightning.sparsity.condensed.function import condensed_linear
from plasticity_lightning.sparsity.condensed.layout import Condensed, condense, expand
from plasticity_lightning.sparsity.condensed.operator import recorded_linear

__all__ = ["CondensedLinear"]


class CondensedLinear(nn.Module):
    """y = x W^T + b, W [out, in] as its living weights: values [n, k] and the inputs that they read.

    Args:
        in_features: inputs.
        out_features: outputs, those without a weight among them.
        rows: outputs that have weights.
        fan_in: largest number of weights of an output.
        bias: whether there is one.
        dtype: of values and bias.
        backend: see `condensed_linear`.

    Attributes:
        values: parameter [n, k].
        bias: parameter [out] or None.
        index, counts, rows: buffers of `Condensed`.

    Use `from_dense` to make one; the arguments are what `load_state_dict` needs to know beforehand.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rows: int,
        fan_in: int,
        bias: bool = True,
        dtype: torch.dtype | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_backend(backend)
        if not 0 <= rows <= out_features or not 0 <= fan_in <= in_features:
            raise ValueError(
                f"rows={rows} must lie in [0, out_features={out_features}], fan_in={fan_in} in [0, {in_features}]"
            )
        self.in_features, self.out_features, self.backend = in_features, out_features, backend
        narrow = torch.int16 if in_features <= torch.iinfo(torch.int16).max else torch.int32
        self.values = nn.Parameter(torch.zeros(rows, fan_in, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype)) if bias else None
        self.register_buffer("index", torch.zeros(rows, fan_in, dtype=narrow))
        self.register_buffer("counts", torch.zeros(rows, dtype=torch.int32))
        self.register_buffer("rows", torch.zeros(rows, dtype=torch.int32))
        self.register_load_state_dict_post_hook(_check_positions)

    @classmethod
    def from_dense(cls, linear: nn.Linear, mask: Tensor | None = None, backend: Backend = "auto") -> CondensedLinear:
        """The same function; of the weights outside the mask (None: of those that are 0) nothing is kept.

        Raises:
            ValueError: as `layout.condense`.
        """
        condensed = condense(linear.weight, mask)
        rows, fan_in = condensed.values.shape
        layer = cls(
            linear.in_features,
            linear.out_features,
            rows,
            fan_in,
            bias=linear.bias is not None,
            dtype=linear.weight.dtype,
            backend=backend,
        ).to(linear.weight.device)
        with torch.no_grad():
            for name in ("values", "index", "counts", "rows"):
                getattr(layer, name).copy_(getattr(condensed, name))
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer.train(linear.training)

    @property
    def condensed(self) -> Condensed:
        """The weight as it is stored."""
        tensors = (
            self._buffers
        )  # not self.index: a module's look-up of an attribute takes as long as a small product's row
        return Condensed(
            self._parameters["values"],  # type: ignore[arg-type]  # set in __init__, never None
            tensors["index"],  # type: ignore[arg-type]  # a buffer, as above
            tensors["counts"],  # type: ignore[arg-type]  # a buffer, as above
            tensors["rows"],  # type: ignore[arg-type]  # a buffer, as above
            (self.out_features, self.in_features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():  # none of them can look into the kernels
            return recorded_linear(x, self.condensed, self.bias)
        return condensed_linear(x, self.condensed, self._parameters["bias"], self.backend)

    def to_dense(self) -> nn.Linear:
        """The Linear that computes the same, zeros included."""
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, self.values.device)
        dense = dense.to(self.values.dtype)
        with torch.no_grad():
            dense.weight.copy_(expand(self.condensed))
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """Sizes."""
        n, k = self.values.shape
        return f"in_features={self.in_features}, out_features={self.out_features}, rows={n}, fan_in={k}, bias={self.bias is not None}"


def _check_positions(layer: nn.Module, _: Any) -> None:
    """A compiled kernel believes the positions that it is given: those of a file are checked once, here."""
    assert isinstance(layer, CondensedLinear)
    limits = {
        "index": (0, layer.in_features),
        "counts": (0, layer.values.shape[1] + 1),
        "rows": (0, layer.out_features),
    }
    for name, (low, high) in limits.items():
        given = layer.get_buffer(name)
        if given.numel() and (given.min() < low or given.max() >= high):
            raise ValueError(
                f"{name} of a condensed layer must lie in [{low}, {high}), got {given.min()} to {given.max()}"
            )
