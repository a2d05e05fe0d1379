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


@pytest.mark.slow
def test_random_features_over_two_processes_give_the_readout_of_one(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "trainer: {accelerator: cpu, max_epochs: -1, num_sanity_val_steps: 0, log_every_n_steps: 1}\n"
        "model: {class_path: RandomFeatureClassifier, init_args: {n_inputs: 64, n_features: 50, fan_in: 8}}\n"
        "data: {class_path: DigitsDataModule, init_args: {batch_size: 20, limit_train: 200, dtype: uint8, with_index: true}}\n"
    )
    weights = []
    for name, arguments in (("one", []), ("two", ["--trainer.strategy=local_ddp", "--trainer.devices=2"])):
        root = f"--trainer.default_root_dir={tmp_path / name}"
        run = [sys.executable, "-m", "plasticity_lightning", "fit", f"--config={recipe}", root, *arguments]
        subprocess.run(run, check=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})
        weights.append(final_state(tmp_path / name)["readout_weight"])
    assert torch.allclose(*weights, atol=1e-4 * float(weights[0].abs().max()))
