"""Cases of the Triton back end, run by `test_function.py`: in Triton's interpreter at small sizes, or on a GPU at full size."""

from __future__ import annotations

import os

import pytest
import torch

from tests.sparsity.condensed.cases import compare, masked_linear

DEVICE = os.environ.get("CONDENSED_DEVICE", "cpu")
FULL_SIZE = DEVICE == "cuda"
N_INPUTS, N_OUTPUTS, FAN_IN = (1024, 1024, 102) if FULL_SIZE else (11, 7, 3)
BATCHES = (1, 3, 256, 300) if FULL_SIZE else (1, 3, 17)


@pytest.mark.parametrize("kind", ["constant", "ragged", "ablated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_masked_dense_layer(kind: str, dtype: torch.dtype) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    linear = masked_linear(N_INPUTS, N_OUTPUTS, FAN_IN, kind, dtype)
    for n in BATCHES:
        x = torch.randn(n, N_INPUTS, generator=torch.Generator().manual_seed(2)).to(DEVICE, dtype)
        compare(linear, x, "triton", 1e-4 if FULL_SIZE and dtype == torch.float32 else None)


def test_half_precision_sums_in_single() -> None:
    linear = masked_linear(N_INPUTS, N_OUTPUTS, FAN_IN, "constant", torch.float16)
    exact = linear.float()
    x = torch.randn(5, N_INPUTS, generator=torch.Generator().manual_seed(2)).half()
    from plasticity_lightning.sparsity.condensed import CondensedLinear

    y = CondensedLinear.from_dense(linear.half(), backend="triton").to(DEVICE)(x.to(DEVICE))
    torch.testing.assert_close(y.float().cpu(), exact.float()(x.float()), atol=1e-2, rtol=1e-2)


def test_an_empty_batch() -> None:
    compare(masked_linear(N_INPUTS, N_OUTPUTS, FAN_IN, "ablated"), torch.zeros(0, N_INPUTS, device=DEVICE), "triton")
