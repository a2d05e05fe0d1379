"""The fused back end of the spiking nodes: `fused_cases.py` in Triton's interpreter, and on a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plasticity_lightning.spiking.neurons import RefractoryLIFNode

CASES = Path(__file__).with_name("fused_cases.py")


def run_cases(**environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_interpreted_kernels_equal_torch() -> None:
    output = run_cases(TRITON_INTERPRET="1", FUSED_DEVICE="cpu")
    assert int(re.search(r"(\d+) passed", output)[1]) >= 30
    assert "skipped" not in output


@pytest.mark.gpu
def test_compiled_kernels_equal_torch_on_a_gpu() -> None:
    run_cases(FUSED_DEVICE="cuda")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes tensors on the CPU")
def test_a_tensor_on_the_cpu_is_refused() -> None:
    node = RefractoryLIFNode(step_mode="m", backend="triton")
    with pytest.raises(ValueError, match="needs tensors on CUDA, got one on cpu"):
        node(torch.zeros(3, 2))
