"""A run that is stopped anywhere goes on as if nothing had happened. The small form; the whole one is marked slow.

The slow form kills every case after each of its saves. Stops at hooks are thinned: each quick case is stopped at every n-th hook, the
cases beginning at different ones, so that each hook is met in some case; a SIGTERM differs from a SIGINT by its number alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from plasticity_lightning import callbacks
from plasticity_lightning.callbacks import (
    AstrocyteFeedback,
    ContinualBackprop,
    L2Init,
    ModuleTransform,
    OneShotPruning,
    Parseval,
    PlasticityInjection,
    PlasticityMonitor,
    PruneRegrowScheduler,
    ReDo,
    Reset,
    ShrinkAndPerturb,
    SoftReset,
)
from plasticity_lightning.runtime import CoverageSummary, DivergenceGuard, ResumableDataLoader
from tests.runtime.interruption import Case, differences, resumed_everywhere, stopped_everywhere


class Stranger(LightningModule):
    """Uses what a module may use: dropout, batch norm, metrics, averages over epochs, own counters at its own hooks."""

    def __init__(self, length: bool = False, plateau: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
        )
        self.length, self.plateau = length, plateau
        self.accuracy, self.mean = MulticlassAccuracy(3), MeanMetric()
        self.register_buffer("counts", torch.zeros(3))
        self.gain = 1.0

    def _loss(self, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(self.gain * self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self._loss(batch)
        self.accuracy(self.net(batch[0]), batch[1])
        self.mean.update(loss.detach())
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("train/max", loss, on_step=False, on_epoch=True, reduce_fx="max")
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.counts[0] += 1

    def on_train_epoch_end(self) -> None:
        self.counts[1] += 1
        self.log("train/mean", self.mean)

    def on_validation_epoch_end(self) -> None:
        self.counts[2] += 1

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.02)
        if self.length:
            steps = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps + 1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        if self.plateau:
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}
        return optimizer


class ByHand(Stranger):
    """Manual optimisation, two optimisers, a varying number of steps a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers()[: 1 + batch_idx % 2]:
            optimizer.zero_grad()
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.net[0].parameters(), 0.02),
            torch.optim.SGD(self.net[4:].parameters(), 0.1, momentum=0.9),
        ]


class Standardised(nn.Linear):
    """The weight that acts is computed in the forward pass, and has no zeros where the masked one has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Branches(Stranger):
    """One ReLU behind two layers, now the one and now the other: the order in which they first run names them."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.relu = nn.ModuleList([nn.Linear(6, 6), Standardised(6, 6)]), nn.ReLU()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x = self.relu(self.pair[self.trainer.fit_loop.total_batch_idx // 3 % 2](batch[0]))
        return super().training_step([x, batch[1]], batch_idx)


def loaders(batches: int = 5) -> tuple[DataLoader, DataLoader]:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(4 * batches, 6, generator=generator), torch.randint(0, 3, (4 * batches,), generator=generator)
    )
    return ResumableDataLoader(data, batch_size=4, shuffle=True, seed=3), DataLoader(data, batch_size=10)


def sparse() -> list:
    return [PruneRegrowScheduler("granet", sparsity=0.8, every=2, regrow_end=0.9, prune_end=0.8)]


def monitored() -> list:
    return [
        PlasticityMonitor(["fau", "weight_norm", "grad_norm", "srank"], every=3, figure_every=4),
        Reset(last=1, trigger="plasticity/grad_norm/network > 0.6", refractory=4),
        ReDo(tau=0.3, every=4),
    ]


CALLBACKS = {
    "none": list,
    "sparse": sparse,
    "monitored": monitored,
    "momentum": lambda: [PruneRegrowScheduler("granet", sparsity=0.5, every=2, grow_by="random"), *monitored()],
    "rigl": lambda: [PruneRegrowScheduler("rigl", sparsity=0.6, every=2)],
    "snip": lambda: [PruneRegrowScheduler("snip", sparsity=0.6, score_batches=3)],
    # an update, a measure and a figure fall between two moments of logging
    "between": lambda: [
        PruneRegrowScheduler("rigl", sparsity=0.5, every=3),
        PlasticityMonitor(["fau", "weight_norm"], every={"fau": 4, "weight_norm": 3}, figure_every=3, per_layer=True),
    ],
    "one_shot": lambda: [OneShotPruning(0.5)],
    "perturbed": lambda: [
        ShrinkAndPerturb(alpha=0.8, noise_std=0.1, every=1, unit="epoch"),
        L2Init(1e-2, decoupled=True),
    ],
    "continual": lambda: [ContinualBackprop(rate=0.2, maturity=2), SoftReset(), Parseval(1e-3)],
    "injected": lambda: [
        ModuleTransform("layer_norm", "net.4"),
        PlasticityInjection(["net.6"], at=4),
        DivergenceGuard(),
        CoverageSummary(),
    ],
    "epochs": lambda: [
        Reset(last=1, at=[1, 2], unit="epoch"),
        Reset(last=1, trigger="train/accuracy < 2", unit="epoch"),
    ],
    "astrocyte": lambda: [AstrocyteFeedback(weight=0.02, target="gain", liquid="net.5", inputs="net.1")],
    "stopping": lambda: [EarlyStopping("val/loss", patience=0, min_delta=9.0)],
}
MODULES = {
    "plain": Stranger,
    "length": lambda: Stranger(length=True),
    "plateau": lambda: Stranger(plateau=True),
    "by_hand": ByHand,
    "branches": Branches,
}
TRAINERS: dict[str, dict[str, Any]] = {
    "epochs": {},
    "validated_inside": {"val_check_interval": 2},
    "every_second": {"check_val_every_n_epoch": 2},
    "steps": {"max_steps": 12, "max_epochs": -1},
    "whole_steps": {"max_steps": 10, "max_epochs": -1},
    "accumulated": {"accumulate_grad_batches": 2},
}
QUICK = [
    ("plain", "none", "epochs"),
    ("plain", "sparse", "validated_inside"),
    ("length", "monitored", "epochs"),
    ("plateau", "none", "epochs"),
    ("plain", "epochs", "every_second"),
    ("by_hand", "monitored", "epochs"),
    ("plain", "none", "steps"),
    ("plain", "none", "whole_steps"),
    ("plain", "stopping", "accumulated"),
    ("branches", "between", "epochs"),
]
# stopped between the batches of one step, which a callback has begun to sum up (kills after these files)
INSIDE_A_STEP = [("plain", "continual", 2, 9), ("plain", "momentum", 8, 99)]
ALL = [("plain", c, t) for c in CALLBACKS for t in TRAINERS] + [(m, c, "epochs") for m in MODULES for c in CALLBACKS]


def test_no_callback_is_forgotten() -> None:
    tried = {type(callback).__name__ for make in CALLBACKS.values() for callback in make()}
    # those that belong to one paper's modules run in tests/recipes/test_resume.py
    recipes = {"AdaptiveReplayRatio", "ErrorModulation", "EvaluationVideo", "LiquidMonitor", "PredictionMonitor", "SelectivityMonitor",
               "StopAfter", "SubspaceMonitor"}  # fmt: skip
    assert {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Callback)} == recipes | tried - {
        "CoverageSummary", "DivergenceGuard", "EarlyStopping"
    }  # fmt: skip


def case(module: str, callbacks: str, trainer: str) -> Case:
    return Case(MODULES[module], loaders, CALLBACKS[callbacks], TRAINERS[trainer])


@pytest.mark.parametrize(("module", "callbacks", "trainer"), QUICK)
def test_killed_runs_go_on_exactly(module: str, callbacks: str, trainer: str, tmp_path: Path) -> None:
    for name, whole, run in resumed_everywhere(case(module, callbacks, trainer), tmp_path, every=5):
        assert differences(whole, run) == [], name


@pytest.mark.parametrize(("module", "callbacks", "start", "every"), INSIDE_A_STEP)
def test_what_callbacks_gather_between_two_steps_is_kept(
    module: str, callbacks: str, start: int, every: int, tmp_path: Path
) -> None:
    for name, whole, run in resumed_everywhere(case(module, callbacks, "accumulated"), tmp_path, every, start):
        assert differences(whole, run) == [], name


@pytest.mark.parametrize("by", ["exception", "signal", "term"])
def test_runs_stopped_at_a_hook_go_on_exactly(by: str, tmp_path: Path) -> None:
    for name, whole, run in stopped_everywhere(
        case("plain", "monitored", "validated_inside"), tmp_path, by, every=47, start=1
    ):
        assert differences(whole, run) == [], name


@pytest.mark.slow
@pytest.mark.parametrize(("module", "callbacks", "trainer"), ALL)
def test_runs_killed_after_any_save_go_on_exactly(module: str, callbacks: str, trainer: str, tmp_path: Path) -> None:
    for name, whole, run in resumed_everywhere(case(module, callbacks, trainer), tmp_path):
        assert differences(whole, run) == [], name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("by", "every"), [("exception", 4), ("signal", 9), ("term", 25)])
@pytest.mark.parametrize("number", range(len(QUICK)), ids=["-".join(names) for names in QUICK])
def test_runs_stopped_at_any_hook_go_on_exactly(number: int, by: str, every: int, tmp_path: Path) -> None:
    for name, whole, run in stopped_everywhere(case(*QUICK[number]), tmp_path, by, every, start=number % every):
        assert differences(whole, run) == [], name
