"""Layers that the tests of all back ends compute, and the masked dense layer as their independent oracle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticity_lightning.sparsity.condensed import CondensedLinear, condense

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def masked_linear(
    n_inputs: int, n_outputs: int, fan_in: int, kind: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Linear:
    """A dense layer with zeros: "constant" fan-in, "ragged" (at most `fan_in`), or "ablated": constant with outputs left out."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n_outputs, n_inputs, generator=generator).argsort(1)[:, :fan_in]
    mask = torch.zeros(n_outputs, n_inputs).scatter_(1, chosen, 1.0)
    if kind == "ragged":
        mask *= torch.rand(n_outputs, n_inputs, generator=generator) < 0.6
    if kind == "ablated":
        mask[1::3] = 0
    linear = nn.Linear(n_inputs, n_outputs).to(dtype)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(n_outputs, n_inputs, generator=generator) * mask)
        linear.bias.copy_(torch.randn(n_outputs, generator=generator))
    return linear


def compare(linear: nn.Linear, x: Tensor, backend: str, tolerance: float | None = None) -> None:
    """Output and gradients of input, values and bias against the masked dense layer."""
    close = TOLERANCE[x.dtype] if tolerance is None else tolerance
    close *= max(1.0, len(x) ** 0.5)
    layer = CondensedLinear.from_dense(linear, backend=backend).to(x.device)
    linear = linear.to(x.device)
    dense_x, our_x = (x.detach().clone().requires_grad_() for _ in range(2))
    expected, got = linear(dense_x), layer(our_x)
    torch.testing.assert_close(got, expected, atol=close, rtol=close)
    g = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(expected)
    gx, gw, gb = torch.autograd.grad(expected, [dense_x, linear.weight, linear.bias], g)
    our_gx, our_gv, our_gb = torch.autograd.grad(got, [our_x, layer.values, layer.bias], g)
    torch.testing.assert_close(our_gx, gx, atol=close, rtol=close)
    torch.testing.assert_close(our_gb, gb, atol=close, rtol=close)
    torch.testing.assert_close(our_gv, condense(gw, linear.weight != 0).values, atol=close, rtol=close)
