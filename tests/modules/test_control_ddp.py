"""Visual control over two processes: ranks learn alike from data of their own, and a cut run goes on to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROBE = "trainer:\n  callbacks+:\n    - class_path: tests.modules.ddp_probe.RanksAgree\n"


def fit(root: Path, epochs: int, *arguments: str) -> dict:
    probe = root / "probe.yaml"
    root.mkdir(exist_ok=True)
    probe.write_text(PROBE)
    options = {
        "replay.capacity": 300, "replay.batch_size": 4, "loop.random_steps": 10, "loop.learning_starts": 10,
        "loop.ticks_per_epoch": 90, "loop.evaluation_episodes": 2, "channels": 4, "trunk": 4, "hidden": 8,
        "environment.options": '{"size": 16, "episode_steps": 4}',
    }  # fmt: skip
    command = [
        sys.executable, "-m", "plasticity_lightning", "fit", "--config=visual_control/quickstart",
        "--config=visual_control/overlays/adaptive_quickstart", f"--config={probe}",
        "--trainer.strategy=ddp_find_unused_parameters_true", "--trainer.devices=2", f"--trainer.max_epochs={epochs}",
        "--trainer.val_check_interval=90", "--trainer.enable_progress_bar=false", "--test_after_fit=false",
        f"--trainer.default_root_dir={root}", *(f"--model.init_args.{k}={v}" for k, v in options.items()), *arguments,
    ]  # fmt: skip
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(root / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_learn_alike_and_resume_to_the_bit(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 2)
    assert [state["updates"] for state in whole["control"]] == [whole["control"][0]["updates"]] * 2
    assert whole["control"][0]["environments"] != whole["control"][1]["environments"]
    fit(tmp_path / "cut", 1)
    resumed = fit(tmp_path / "cut", 2, "--ckpt_path=last")
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert str(whole["control"][1]["environments"]) == str(resumed["control"][1]["environments"])
