"""Prequential scores by hand, tasks reported once at their index, exact resume in the middle of a task, two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from plasticity_lightning.data import LabelShiftDataModule, SlowlyChangingRegressionDataModule
from plasticity_lightning.modules import ContinualClassifier, ContinualRegressor
from plasticity_lightning.networks import MLP
from plasticity_lightning.runtime import AtomicCheckpoint, RNGState


class Memory(Logger):
    """Keeps what is logged."""

    name = "memory"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs) -> None:
        pass

    def tasks(self) -> list[tuple[int, dict[str, float]]]:
        return [(step, row) for step, row in self.rows if "task/index" in row]


class StopAt(Callback):
    """Ends the process of training, as a crash would, after a batch of the whole run."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            raise KeyboardInterrupt


def trainer(tmp_path, **kwargs) -> Trainer:
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": tmp_path,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**settings | kwargs)


class Sign(nn.Module):
    """Class 1 where w x > 0, else class 0; w has one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), self.w * x], 1)


class Four(LightningDataModule):
    """Four batches of one sample with x = 1; the labels of an epoch are given; a task lasts two epochs."""

    def __init__(self, labels: list[list[int]]) -> None:
        super().__init__()
        self.labels = labels

    def task_of(self, epoch: int) -> int:
        return epoch // 2

    def train_dataloader(self):
        labels = self.labels[self.trainer.current_epoch]
        return DataLoader([(torch.ones(1, 1), torch.tensor([label])) for label in labels], batch_size=None)


def test_scores_are_of_the_prediction_before_the_update(tmp_path):
    # w starts at 1, so class 1 is predicted; SGD with lr 4 moves w by 4 (label - sigmoid(w)):
    # epoch 0: label 1: right; w = 1 + 4 * 0.2689 = 2.0758
    #          label 0: wrong; w = 2.0758 - 4 * 0.8885 = -1.4782
    #          label 0: right; w = -1.4782 - 4 * 0.1857 = -2.2210
    #          label 1: wrong; w = -2.2210 + 4 * 0.9021 = 1.3875
    # epoch 1: label 1, 1: right, w grows to 2.1895 and on; label 0: wrong, w = 2.5913 - 4 * 0.9303 = -1.1299; label 0: right
    labels = [[1, 0, 0, 1], [1, 1, 0, 0]]
    memory = Memory()
    module = ContinualClassifier(Sign(), n_classes=2, optimizer=lambda p: torch.optim.SGD(p, lr=4.0))
    run = trainer(tmp_path, max_epochs=2, logger=memory, reload_dataloaders_every_n_epochs=1)
    run.fit(module, datamodule=Four(labels))
    expected = {"task/online_accuracy": 5 / 8, "task/final_accuracy": 3 / 4, "task/index": 0.0}
    assert memory.tasks() == [(0, pytest.approx(expected))]
    assert {name: float(run.callback_metrics[name]) for name in expected} == pytest.approx(expected)


def test_the_regressor_scores_the_squared_error_before_the_update(tmp_path):
    class Ones(Four):
        def train_dataloader(self):
            return DataLoader([(torch.ones(2, 1), torch.tensor([[1.0], [3.0]]))] * 2, batch_size=None)

    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    # batch 1: errors 1 and 9, mean 5; gradient -2 * mean(1, 3) = -4, lr 0.25: w = 1. batch 2: errors 0 and 4, mean 2
    module = ContinualRegressor(net, optimizer=lambda p: torch.optim.SGD(p, lr=0.25))
    memory = Memory()
    trainer(tmp_path, max_epochs=1, logger=memory).fit(module, datamodule=Ones([]))
    ((step, row),) = memory.tasks()
    assert step == 0
    assert row["task/online_mse"] == pytest.approx(3.5)
    assert net.weight.item() == pytest.approx(1.5)


def stream(**kwargs) -> LabelShiftDataModule:
    return LabelShiftDataModule(images="digits", limit_train=40, batch_size=10, epochs_per_task=2, **kwargs)


def learner(width: int = 8) -> ContinualClassifier:
    torch.manual_seed(0)
    return ContinualClassifier(MLP(64, 10, width=width), optimizer=lambda p: torch.optim.Adam(p, lr=0.01))


def test_each_task_is_reported_once_at_its_index(tmp_path):
    memory = Memory()
    trainer(tmp_path, max_epochs=5, logger=memory, log_every_n_steps=3).fit(learner(), datamodule=stream())
    assert [(step, row["task/index"]) for step, row in memory.tasks()] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    # 20 batches; one in three, counted over epochs of four
    assert [step for step, row in memory.rows if "train/loss" in row] == [2, 5, 8, 11, 14, 17]


@pytest.mark.parametrize(
    "batch", [4, 6, 12]
)  # at the end of an epoch inside a task, in mid-epoch, at the end of a task
def test_resume_in_the_middle_of_the_stream_is_exact(tmp_path, batch):
    def fit(folder, stop=None, ckpt=None):
        memory, module = Memory(), learner()
        callbacks = [RNGState(), AtomicCheckpoint(str(tmp_path / folder), every_n_batches=1)]
        callbacks += [StopAt(batch)] if stop else []
        run = trainer(tmp_path, max_epochs=6, logger=memory, callbacks=callbacks, enable_checkpointing=True)
        if stop:
            with pytest.raises(SystemExit):
                run.fit(module, datamodule=stream())
        else:
            run.fit(module, datamodule=stream(), ckpt_path=ckpt)
        return memory.tasks(), module.state_dict()

    whole, weights = fit("whole")
    before, _ = fit("cut", stop=True)
    after, resumed = fit("cut", ckpt=tmp_path / "cut" / "last.ckpt")
    assert before + after == whole
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


def test_data_without_tasks_are_refused(tmp_path):
    batches = [(torch.zeros(1, 64), torch.zeros(1, dtype=torch.int64))]
    with pytest.raises(MisconfigurationException, match="task_of"):
        trainer(tmp_path, max_epochs=1).fit(learner(), batches)


def test_a_classifier_needs_two_classes():
    with pytest.raises(ValueError, match="n_classes=1"):
        ContinualClassifier(MLP(4, 1), n_classes=1)


def test_regression_stream_and_regressor_fit_together(tmp_path):
    data = SlowlyChangingRegressionDataModule(samples_per_task=40, batch_size=20)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(ContinualRegressor(MLP(20, 1, width=5, depth=1)), datamodule=data)
    assert run.callback_metrics["task/final_mse"] > 0


_SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from tests.modules.test_continual import Memory, learner, stream

folder, name, checkpoint = sys.argv[1:]
memory, module = Memory(), learner()
trainer = Trainer(max_epochs=4, accelerator="cpu", devices=2, logger=memory, enable_progress_bar=False,
    enable_model_summary=False, strategy=DDPStrategy(process_group_backend="gloo"), limit_val_batches=0,
    default_root_dir=folder, callbacks=[ModelCheckpoint(folder, "{epoch}", save_top_k=-1)])
trainer.fit(module, datamodule=stream(), ckpt_path=checkpoint or None)
torch.save({"tasks": memory.tasks(), "w": module.state_dict()}, f"{folder}/{name}{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_share_the_scores_and_resume(tmp_path):
    script, root = tmp_path / "script.py", Path(__file__).parents[2]
    script.write_text(_SCRIPT)

    def fit(name: str, checkpoint: str = "") -> list[dict]:
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path), name, checkpoint],
            cwd=root,
            env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=140,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [torch.load(tmp_path / f"{name}{rank}.pt") for rank in (0, 1)]

    whole = fit("whole")
    resumed = fit("resumed", str(tmp_path / "epoch=2.ckpt"))  # task 1 is half done, its sums are in the checkpoint
    assert [step for step, _ in whole[0]["tasks"]] == [0, 1]
    assert whole[0]["tasks"] == whole[1]["tasks"]  # both ranks have the score of all samples
    assert resumed[0]["tasks"] == resumed[1]["tasks"] == whole[0]["tasks"][1:]
    for other in (whole[1], *resumed):
        assert all(torch.equal(value, other["w"][key]) for key, value in whole[0]["w"].items())
