"""The fused back end of the spiking nodes: `fused_cases.py` in Triton's interpreter, and on a GPU."""

import os

import pytest
import torch

from plasticity_lightning.spiking.neurons import RefractoryLIFNode
from tests.spiking.gpu_kernels import run_cases

CASES = "tests/spiking/fused_cases.py"


def test_interpreted_kernels_equal_torch() -> None:
    pytest.importorskip("triton", reason="torch comes without Triton here")
    assert run_cases(CASES, TRITON_INTERPRET="1", FUSED_DEVICE="cpu") >= 30


@pytest.mark.gpu
def test_compiled_kernels_equal_torch_on_a_gpu() -> None:
    run_cases(CASES, FUSED_DEVICE="cuda")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes tensors on the CPU")
def test_a_tensor_on_the_cpu_is_refused() -> None:
    node = RefractoryLIFNode(step_mode="m", backend="triton")
    with pytest.raises(ValueError, match="needs tensors on CUDA, got one on cpu"):
        node(torch.zeros(3, 2))
