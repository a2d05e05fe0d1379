"""The Triton kernels compile for a GPU, without one, and fuse no product with a sum."""

from __future__ import annotations

import os
import re

import pytest

POINTER, INTEGER, NUMBER = "*fp32", "i32", "fp32"
RUN_TIME = {"T": INTEGER, "N": INTEGER, "F": INTEGER, "refractory": INTEGER}
OTHER_POINTERS = {"rest_ptr": "*i64", "rest_last_ptr": "*i64", "ready_ptr": "*i8"}


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled")
@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("lif_forward", {"RECIPROCAL": True}),
        ("lif_backward", {"SURROGATE": 0}),
        ("izhikevich_forward", {"SUBSTEPS": 2, "CLAMP": True}),
        ("izhikevich_forward", {"SUBSTEPS": 1, "CLAMP": False}),
        ("izhikevich_backward", {"SUBSTEPS": 2, "CLAMP": True, "SURROGATE": 1}),
        ("izhikevich_backward", {"SUBSTEPS": 1, "CLAMP": False, "SURROGATE": 2}),
        ("capacitance_forward", {}),
        ("capacitance_backward", {"SURROGATE": 0}),
    ],
)
def test_kernel_compiles_for_cuda(name: str, constants: dict[str, object]) -> None:
    triton = pytest.importorskip("triton", reason="torch comes without Triton here")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from plasticity_lightning.spiking import _triton_kernels

    kernel = getattr(_triton_kernels, name)
    constants = {**constants, "BLOCK": 256}
    signature = {
        argument: "constexpr"
        if argument in constants
        else OTHER_POINTERS.get(argument, POINTER if argument.endswith("_ptr") else RUN_TIME.get(argument, NUMBER))
        for argument in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    ptx = compiled.asm["ptx"]
    assert "st.global" in ptx
    if name.endswith("forward"):  # what decides a spike; the exponential of a surrogate is approximate anyway
        assert re.findall(r"fma\.rn\.f32", ptx) == []
