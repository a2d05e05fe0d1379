"""Every callback of the package has lines in the table of coverage, or one that says that it watches nothing of the network."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

import plasticity_lightning
from plasticity_lightning import callbacks
from plasticity_lightning.callbacks import (
    AdaptiveReplayRatio,
    AstrocyteFeedback,
    ContinualBackprop,
    ErrorModulation,
    EvaluationVideo,
    L2Init,
    LiquidMonitor,
    ModuleTransform,
    OneShotPruning,
    Parseval,
    PlasticityInjection,
    PlasticityMonitor,
    PredictionMonitor,
    PruneRegrowScheduler,
    ReDo,
    Reset,
    SelectivityMonitor,
    ShrinkAndPerturb,
    SoftReset,
    StopAfter,
    SubspaceMonitor,
)
from plasticity_lightning.protocols import HasCoverage
from plasticity_lightning.runtime.coverage import CoverageSummary, coverage_rows
from tests.callbacks.liquid.test_liquid_monitor import Recorder
from tests.callbacks.prediction.test_monitors import BANK, data, module
from tests.callbacks.toy_networks import Classifier, images
from tests.modules.test_visual_control import agent

# the module and data of a family; prediction tasks come as a data module
FAMILIES: dict[str, Callable[[], tuple[pl.LightningModule, dict[str, Any]]]] = {
    "network": lambda: (Classifier(), {"train_dataloaders": images(16)}),
    "liquid": lambda: (Recorder(changes=False), {"train_dataloaders": DataLoader(torch.zeros(3))}),
    "prediction": lambda: (module(rule_arguments=BANK), {"datamodule": data()}),
    "control": lambda: (agent(), {}),
}
NOTHING = "nothing of the network"
CASES: dict[str, tuple[Callable[[], pl.Callback], str, list[str]]] = {
    # name: how it is made, its family, words that its lines must hold
    "AdaptiveReplayRatio": (AdaptiveReplayRatio, "control", ["VisualControl.replay_ratio", "plasticity/fau/critic", "every 50 episodes"]),
    "AstrocyteFeedback": (lambda: AstrocyteFeedback(target="net.4.weight", liquid="net.2", inputs="net.5"), "network", ["net.2", "net.4.weight"]),
    "ContinualBackprop": (ContinualBackprop, "network", ["net.0", "replaceable"]),
    "ErrorModulation": (lambda: ErrorModulation(error="sign", final_gain=0.5, end=9, off=[(2, 3)]), "prediction",
                        ["error_modulation", "sign error", "linear to 0.5 in trials 0 to 9", "off in trials 2 to 3"]),
    "EvaluationVideo": (EvaluationVideo, "control", [NOTHING, "filmed"]),
    "L2Init": (L2Init, "network", ["net.0.weight", "pulled back"]),
    "LiquidMonitor": (LiquidMonitor, "liquid", ["liquid", "watched"]),
    "ModuleTransform": (lambda: ModuleTransform("layer_norm", ["net.4"]), "network", ["net.4"]),
    "OneShotPruning": (lambda: OneShotPruning(0.5), "network", ["net.0.weight", "masked"]),
    "Parseval": (Parseval, "network", ["net.0.weight", "penalised"]),
    "PlasticityInjection": (lambda: PlasticityInjection(["net.6"], at=1), "network", ["net.6"]),
    "PlasticityMonitor": (PlasticityMonitor, "network", ["net.2", "watched", "fau"]),
    "PredictionMonitor": (PredictionMonitor, "prediction", ["record", "drawn", "raster"]),
    "PruneRegrowScheduler": (lambda: PruneRegrowScheduler("set", 0.5, every=1, summary=False), "network", ["net.0.weight", "masked"]),
    "ReDo": (lambda: ReDo(every=1), "network", ["net.0", "replaceable"]),
    "Reset": (lambda: Reset(last=1, every=1), "network", ["net.6"]),
    "SelectivityMonitor": (SelectivityMonitor, "prediction", ["last_input", "readout_weight", "mixing"]),
    "ShrinkAndPerturb": (lambda: ShrinkAndPerturb(every=1), "network", ["net.0"]),
    "SoftReset": (SoftReset, "network", ["net.0.weight", "pulled back"]),
    "StopAfter": (lambda: StopAfter(steps=20), "control", [NOTHING, "ends the run at 20 steps"]),
    "SubspaceMonitor": (SubspaceMonitor, "prediction", ["readout_weight", "every 28 trials"]),
}  # fmt: skip


class Keep(CoverageSummary):
    """Keeps what would be printed, and ends the run there."""

    def show(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rows = coverage_rows(trainer, pl_module)
        trainer.should_stop = True


@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_callback_says_what_it_acts_on(name: str) -> None:
    make, family, words = CASES[name]
    callback, summary = make(), Keep()
    torch.manual_seed(0)
    model, given = FAMILIES[family]()
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[summary, callback],
        **settings,
    )
    trainer.fit(model, **given)
    assert isinstance(callback, HasCoverage)
    rows = [row for row in summary.rows if row.callback.startswith(name)]
    assert rows
    assert all(row.name and row.what for row in rows)
    text = " ".join(part for row in rows for part in row)
    assert all(word in text for word in words), text


@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_callback_asks_for_the_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, family, _ = CASES[name]
    model, given = FAMILIES[family]()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[make()],
        limit_val_batches=0,
    )
    model.trainer = trainer
    trainer.strategy.connect(model)
    trainer.datamodule = given.get("datamodule")
    trainer.callbacks[0].setup(trainer, model, "fit")
    assert any(isinstance(callback, CoverageSummary) for callback in trainer.callbacks)


def test_there_is_no_callback_beside_these() -> None:
    for part in pkgutil.walk_packages(plasticity_lightning.__path__, "plasticity_lightning."):
        if not part.name.rpartition(".")[2].startswith("_"):
            importlib.import_module(part.name)

    def below(kind: type) -> set[type]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    ours = {kind for kind in below(pl.Callback) if kind.__module__.startswith("plasticity_lightning.callbacks")}
    bases = {kind for kind in ours if any(kind in other.__mro__[1:] for other in ours)}
    # the keeper of masks belongs to a scheduler, which speaks for both
    assert {kind.__name__ for kind in ours - bases} - {"MaskKeeper"} == set(CASES) == set(callbacks.__all__)
