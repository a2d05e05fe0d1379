"""The Triton kernels compile for a GPU, without one."""

from __future__ import annotations

import os

import pytest

POINTERS = {"index_ptr": "*i16", "counts_ptr": "*i32"}


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("name", ["forward", "values_backward", "inputs_backward"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "fp64"])
def test_kernel_compiles_for_cuda(name: str, dtype: str) -> None:
    triton = pytest.importorskip("triton", reason="torch comes without Triton here")
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from plasticity_lightning.sparsity.condensed import _triton_kernels

    kernel = getattr(_triton_kernels, name)
    wide = tl.float64 if dtype == "fp64" else tl.float32
    constants = {"ACC": wide, "BLOCK_B": 256} | ({"HAS_BIAS": True} if name == "forward" else {})
    # the gradient of the inputs is summed in the wide type
    sums = {"gx_ptr": "*fp64" if dtype == "fp64" else "*fp32"}
    signature = {
        argument: "constexpr"
        if argument in constants
        else (POINTERS | sums).get(argument, f"*{dtype}" if argument.endswith("_ptr") else "i32")
        for argument in kernel.arg_names
    }
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert ("atom" if name == "inputs_backward" else "st.global") in compiled.asm["ptx"]
