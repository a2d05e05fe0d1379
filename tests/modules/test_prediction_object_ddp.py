"""Two gloo processes, lanes split over ranks: equal to one process, checkpoint and scores included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import plasticity_lightning.modules  # noqa: F401 - makes its options readable with weights_only=True

_SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from plasticity_lightning.callbacks import ErrorModulation
from plasticity_lightning.data.prediction_task import PredictionTaskDataModule
from plasticity_lightning.data.prediction_world import Cue, Phase
from plasticity_lightning.modules import PredictionObject
from plasticity_lightning.runtime import AtomicCheckpoint, LocalDDPStrategy, RNGState
from plasticity_lightning.spiking.reservoir import ReservoirOptions

folder, devices, rule, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else None
phases = [Phase([Cue([200.0], [0.8, 0.2]), Cue([300.0], [0.2, 0.8])], blocks=6)]
data = PredictionTaskDataModule(phases, lanes=3, lead_in_blocks=1, probe_every=3, window_ms=400, trial_ms=450, interval_ms=(50, 100))
model = PredictionObject(ReservoirOptions(n_neurons=40, n_channels=4), lanes=3, rule=rule, threads=1)
gate = [ErrorModulation()] if rule in ("three_factor", "lms") else []
options = {"strategy": LocalDDPStrategy(process_group_backend="gloo"), "devices": 2} if devices == 2 else {"devices": 1}
trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=folder,
    callbacks=[*gate, RNGState(), AtomicCheckpoint(folder, every_n_batches=7)], **options)
trainer.fit(model, data)
values = trainer.validate(model, data, verbose=False)[0]
state = {"values": values, "weights": model.readout_weight.detach(), "record": model.record.state_dict(), "steps": trainer.global_step,
    "buffers": dict(model.named_buffers()), "scores": model.scores(data.truth())}
torch.save(state, f"{folder}/rank{trainer.global_rank}.pt")
"""


def run(folder: Path, devices: int, rule: str) -> list[dict]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(_SCRIPT)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(devices), rule],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(devices)]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["three_factor", "lms", "force", "rls", "ridge"])
def test_lanes_over_two_processes_equal_one_process(rule: str, tmp_path: Path) -> None:
    (one,) = run(tmp_path / "one", 1, rule)
    first, second = run(tmp_path / "two", 2, rule)
    kept = torch.load(tmp_path / "two" / "last.ckpt", weights_only=True)
    for rank in (first, second):
        assert rank["steps"] == one["steps"]
        assert torch.equal(rank["weights"], one["weights"])
        for name, value in one["buffers"].items():
            assert torch.equal(rank["buffers"][name], value), name
        assert torch.equal(rank["record"]["signals"], one["record"]["signals"])
        for name, value in one["record"]["trials"].items():
            assert torch.equal(rank["record"]["trials"][name].nan_to_num(-9), value.nan_to_num(-9)), name
        for name, value in one["scores"].items():
            assert torch.equal(rank["scores"][name].nan_to_num(-9), value.nan_to_num(-9)), name
    assert torch.equal(kept["state_dict"]["readout_weight"], one["weights"])
    assert first["values"] == pytest.approx(one["values"], nan_ok=True)
    assert "val/timing_error_ms" in one["values"]
    assert torch.equal(kept["state_dict"]["state_v"], one["buffers"]["state_v"])
