"""How GPU kernels are tested without a GPU: in a process of their own that simulates, and by the code the compiler makes of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SIMULATORS = ("TRITON_INTERPRET", "NUMBA_ENABLE_CUDASIM")


def run_cases(path: str, **environment: str) -> int:
    """Run the tests of a file that is not collected by itself; returns how many passed, none may fail or be skipped."""
    clean = {name: value for name, value in os.environ.items() if name not in SIMULATORS}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / path)]
    done = subprocess.run(command, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def fused_operations(module: str, name: str, signature: list) -> tuple[int, bool]:
    """(fused multiply-adds in the PTX of a float64 kernel, whether it has float64 products at all).

    Compiling needs no GPU, but NVIDIA's compiler library, which the extra `gpu` brings; skips where it is missing.
    """
    from numba import cuda
    from numba.cuda import dispatcher

    kernel = getattr(import_module(module), name)
    with pytest.MonkeyPatch.context() as patch:
        # device functions are compiled for the current device; here there is none
        patch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
        try:
            ptx, _ = cuda.compile_ptx(kernel.py_func, tuple(signature), cc=(9, 0))
        except Exception as error:
            if "nvvm" in str(error).lower() or "driver" in str(error).lower():
                pytest.skip("numba finds no CUDA compiler: install the extra `gpu`")
            raise
    return ptx.count("fma.rn.f64"), "mul.rn.f64" in ptx
