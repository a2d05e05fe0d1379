"""NALSM through the command line, killed without warning or spread over two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SMALL = [
    "--config=nalsm/quickstart",
    "--data.init_args.limit_train=200",
    "--data.init_args.batch_size=20",
    "--trainer.enable_progress_bar=false",
]


def command(root: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "plasticity_lightning",
        "fit",
        *SMALL,
        f"--trainer.default_root_dir={root}",
        *arguments,
    ]


def final_state(root: Path) -> dict[str, torch.Tensor]:
    import plasticity_lightning.modules  # noqa: F401 - registers what checkpoints may hold

    return torch.load(root / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_kill_and_resume_gives_the_uninterrupted_numbers_and_keeps_finished_chunks(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "whole"), check=True, timeout=200)

    root = tmp_path / "killed"
    features, checkpoint = root / "version_0" / "features", root / "version_0" / "checkpoints" / "last.ckpt"
    process = subprocess.Popen(command(root))
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and not (checkpoint.is_file() and len(list(features.rglob("train-*.npz"))) >= 2):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    chunks = {path: path.stat().st_mtime_ns for path in features.rglob("train-*.npz")}
    assert len(chunks) >= 2

    subprocess.run(command(root, "--ckpt_path=last"), check=True, timeout=200)
    assert {path: path.stat().st_mtime_ns for path in chunks} == chunks
    whole, resumed = final_state(tmp_path / "whole"), final_state(root)
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.slow
def test_two_processes_train_and_agree(tmp_path: Path) -> None:
    arguments = ["--trainer.strategy=local_ddp", "--trainer.devices=2"]
    run = subprocess.run(
        command(tmp_path, *arguments),
        check=True,
        timeout=250,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "test/accuracy" in run.stdout
    assert float(final_state(tmp_path)["readout_weight"].abs().sum()) > 0
