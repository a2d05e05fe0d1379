"""Two gloo processes: both publish the same values, those of one process on all the data."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

_SCRIPT = """
import sys
import torch
import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from plasticity_lightning.callbacks import PlasticityMonitor

class Fit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))
    def training_step(self, batch, i):
        return (self.net(batch[0]) - batch[1]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

data = TensorDataset(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.ones(8, 1))
model = Fit()
live = PlasticityMonitor(["fau", "ever_active", "dormant", "srank", "grad_norm", "update_ratio"])
probe = PlasticityMonitor(["probe_loss", "effective_rank"], on="probe", name="probe", probe_steps=2)
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", devices=int(sys.argv[2]), logger=False,
    enable_progress_bar=False, enable_checkpointing=False, callbacks=[live, probe],
    strategy=DDPStrategy(process_group_backend="gloo") if sys.argv[2] == "2" else "auto")
trainer.fit(model, DataLoader(data, batch_size=8 // int(sys.argv[2])))
torch.save({key: float(value) for key, value in trainer.callback_metrics.items()},
    f"{sys.argv[1]}/{sys.argv[2]}_{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_ranks_publish_what_one_process_measures_on_all_the_data(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    root = Path(__file__).parents[3]
    for devices in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path), devices],
            cwd=root,
            env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    assert first == second
    live = {key: value for key, value in one.items() if key.split("/")[1] not in ("probe_loss", "effective_rank")}
    assert len(live) == 12
    assert {key: first[key] for key in live} == pytest.approx(live)
    assert {"plasticity/probe_loss/network", "plasticity/effective_rank/network"} <= set(first)
