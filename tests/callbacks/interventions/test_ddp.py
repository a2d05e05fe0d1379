"""Two gloo processes with different data: every intervention leaves bitwise the same weights on both ranks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

_SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from plasticity_lightning.callbacks import *
from plasticity_lightning.interventions import UPGD
from tests.callbacks.interventions.toys import Regression, data, weights

class Module(Regression):
    # a rank of its own data, and so of its own metric: rank 0 decides on the trigger
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = (self(x + self.global_rank) - y).square().mean()
        self.log("rank", float(self.global_rank))
        return loss
    def configure_optimizers(self):
        return UPGD(self.parameters(), lr=0.1, sigma=0.1) if self.optimizer == "upgd" else super().configure_optimizers()

cases = {
    "upgd": [],
    "all": [ShrinkAndPerturb(every=4), ReDo(tau=0.9, every=3), Reset("head", at=[5]), L2Init(0.1), Parseval(0.1),
            ContinualBackprop(rate=0.1, maturity=1), SoftReset(1.0)],
    "trigger": [Reset(trigger="rank < 0.5")],
    "injection": [PlasticityInjection(["head"], at=3)],
}
out = {}
for name, callbacks in cases.items():
    module = Module("upgd" if name == "upgd" else "adam")
    trainer = Trainer(max_steps=8, max_epochs=-1, accelerator="cpu", devices=2, logger=False, log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        strategy=DDPStrategy(process_group_backend="gloo", find_unused_parameters=name == "injection"))
    trainer.fit(module, data(16))
    out[name] = {
        "weights": weights(module),
        "metrics": {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("intervention")},
        "sums": {k: u.utility for k, u in callbacks[5]._utilities.items()} if name == "all" else {},
    }
torch.save(out, f"{sys.argv[1]}/rank{trainer.global_rank}.pt")
"""

# killed after the first of the two batches of a step, whose activity each rank has summed over its own samples
_RESUMED = """
import sys
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from plasticity_lightning.callbacks import ContinualBackprop, ReDo, SoftReset
from plasticity_lightning.runtime import AtomicCheckpoint, RNGState
from tests.callbacks.interventions.toys import Regression, data, weights

class Kill(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 5:
            raise KeyError("killed")

def fit(folder, *more, ckpt=None):
    module = Regression()
    trainer = Trainer(max_epochs=1, accelerator="cpu", devices=2, logger=False, accumulate_grad_batches=2,
        enable_progress_bar=False, enable_model_summary=False, strategy=DDPStrategy(process_group_backend="gloo"),
        callbacks=[RNGState(), ContinualBackprop(rate=0.3, maturity=1), ReDo(tau=0.9, every=2), SoftReset(1.0), *more,
            AtomicCheckpoint(f"{sys.argv[1]}/{folder}", every_n_batches=1)])
    try:
        trainer.fit(module, data(16), ckpt_path=ckpt, weights_only=True)
    except KeyError:
        pass
    return trainer, weights(module)

_, whole = fit("whole")
fit("killed", Kill())
trainer, resumed = fit("killed", ckpt=f"{sys.argv[1]}/killed/last.ckpt")
torch.save({"whole": whole, "resumed": resumed}, f"{sys.argv[1]}/rank{trainer.global_rank}.pt")
"""


def run(source, tmp_path):
    """What both ranks have saved."""
    script = tmp_path / "script.py"
    script.write_text(source)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
def test_what_each_rank_has_gathered_since_the_last_step_is_kept(tmp_path):
    for rank in run(_RESUMED, tmp_path):
        for name, value in rank["whole"].items():
            assert torch.equal(value, rank["resumed"][name]), name
    state = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert len(state["unfinished"]) == 2


@pytest.mark.slow
def test_ranks_stay_equal(tmp_path):
    first, second = run(_SCRIPT, tmp_path)
    for case, mine in first.items():
        for name, value in mine["weights"].items():
            assert torch.equal(value, second[case]["weights"][name]), (case, name)
    assert first["all"]["metrics"]["intervention/redo/units"] > 0
    assert first["all"]["metrics"] == second["all"]["metrics"]
    assert first["trigger"]["metrics"]["intervention/reset/events"] == 1.0
    assert second["trigger"]["metrics"]["intervention/reset/events"] == 1.0
    assert first["injection"]["metrics"]["intervention/plasticity_injection/heads"] == 1.0
    for layer, utility in first["all"]["sums"].items():
        assert torch.equal(utility, second["all"]["sums"][layer])
