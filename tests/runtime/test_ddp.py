"""Two gloo processes: a gradient-free module trains, ranks share one order, every rank's random state is kept."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

_SCRIPT = """
import sys
import torch
from lightning.pytorch import LightningModule, Trainer
from plasticity_lightning.runtime import AtomicCheckpoint, GracefulStop, LocalDDPStrategy, ResumableDataLoader, RNGState

class Local(LightningModule):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.automatic_optimization = False
        self.seen = []
    def training_step(self, batch, i):
        self.seen += batch.int().tolist()
        self.w += self.trainer.strategy.reduce(batch.float().mean(), reduce_op="mean")
    def configure_optimizers(self):
        return None

model = Local()
torch.manual_seed(0)
trainer = Trainer(max_epochs=1, accelerator="cpu", devices=2, logger=False, enable_progress_bar=False,
    strategy=LocalDDPStrategy(process_group_backend="gloo"), default_root_dir=sys.argv[1],
    callbacks=[RNGState(), GracefulStop(), AtomicCheckpoint()])
trainer.fit(model, ResumableDataLoader(torch.arange(8), batch_size=2, shuffle=True, seed=1))
torch.save({"seen": model.seen, "w": model.w.item()}, f"{sys.argv[1]}/rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_ranks_share_order_weights_and_checkpoint(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert sorted(first["seen"] + second["seen"]) == list(range(8))
    # each of the 2 steps adds the mean over both ranks; together the mean of all 8 samples, 3.5, twice
    assert first["w"] == second["w"] == pytest.approx(7.0)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(state["rng_state"]) == 2
