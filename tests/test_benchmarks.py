"""Every script in `benchmarks/` runs to its end with tiny settings and prints something."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
# what `--quick` leaves long: processes that import torch, a ResNet-18, a dense liquid of 1000 neurons
SMALLER = {
    "cold_start": ["--only", "plasticity --version"],
    "liquid": ["--shape", "4", "5", "5"],
    "plasticity_monitor": ["--cases", "critic", "--batch", "4"],
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_runs(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--quick", *SMALLER.get(script.stem, [])])
    monkeypatch.setenv("PYTHONPATH", str(script.parents[1]))
    runpy.run_path(str(script), run_name="__main__")
    torch.set_num_threads(1)
    assert capsys.readouterr().out.strip()


def test_the_list_of_smaller_ones_names_scripts() -> None:
    assert set(SMALLER) <= {script.stem for script in SCRIPTS}
