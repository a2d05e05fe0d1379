"""Freed memory stays in the process, counted in page faults of a process of its own."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

import plasticity_lightning.runtime.heap as heap

# the file alone, as the package would import torch
SCRIPT = """
import resource, runpy, sys
if sys.argv[2] == "keep":
    print(runpy.run_path(sys.argv[1])["keep_heap"](), file=sys.stderr)
def touch():
    b"x" * 50_000_000  # above glibc's largest threshold
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-S", "-c", SCRIPT, str(Path(heap.__file__)), how]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only")
def test_a_large_allocation_costs_no_page_faults_again() -> None:
    # without it each of the five takes its memory anew, at least one fault a huge page of 2 MB: 5 * 50 / 2
    assert faults("plain") >= 100
    assert faults("keep") < 20


def test_another_c_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert "needs the C library glibc" in heap.keep_heap()
