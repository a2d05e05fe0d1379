"""LiquidMonitor: what reaches TensorBoard, and what is refused."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plasticity_lightning.callbacks import AstrocyteFeedback, LiquidMonitor
from plasticity_lightning.data import DigitsDataModule
from plasticity_lightning.data.events.event_batches import EventBatch
from plasticity_lightning.modules import NALSM
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid import LiquidActivity
from plasticity_lightning.spiking.liquid.topology import grid_liquid


def test_a_run_is_visible_in_tensorboard(tmp_path: Path) -> None:
    data = DigitsDataModule(batch_size=50, val_size=100, limit_train=100, dtype="uint8", with_index=True)
    model = NALSM(n_inputs=64, shape=(4, 4, 5), threads=1)
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    callbacks = [AstrocyteFeedback(), LiquidMonitor(n_items=4)]
    trainer = pl.Trainer(
        max_epochs=-1, logger=logger, callbacks=callbacks, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        num_sanity_val_steps=0, log_every_n_steps=1, default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, data)
    seen = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "histograms": 0}).Reload().Tags()
    scalars = {
        "liquid/branching_factor",
        "liquid/synchrony",
        "liquid/silent_fraction",
        "astrocyte/depression_rate",
        "val/accuracy",
    }
    assert scalars <= set(seen["scalars"])
    assert {"readout/val_accuracy", "initialise/firing_rate_hz", "features/firing_rate_hz"} <= set(seen["scalars"])
    assert {"liquid/raster", "liquid/network", "liquid/modulation"} <= set(seen["images"])
    assert {"weights/ee", "weights/ie", "weights/input", "liquid/firing_rate_hz"} <= set(seen["histograms"])


class Recorder(pl.LightningModule):
    """A stranger with a liquid of six neurons, whose weights change where `changes`; remembers what it was asked to record."""

    def __init__(self, changes: bool) -> None:
        super().__init__()
        self.liquid = grid_liquid((1, 2, 3), 4, generator=torch.Generator().manual_seed(0))
        self.weight = torch.nn.Parameter(self.liquid.weight.clone())
        self.changes, self.recorded = changes, []

    def record(self, batch: dict) -> LiquidActivity:
        self.recorded.append(batch)
        n = len(batch["label"])
        spikes = torch.ones(n, 20, 6, dtype=torch.uint8)
        return LiquidActivity(spikes.sum(1), spikes.sum(2), spikes.sum(2), torch.zeros(n, 20), spikes)

    def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: object, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1 if self.changes else 0.0)


def events(n: int = 9) -> list[dict]:
    """One batch of n recordings of 20 ms; recording i has channel i % 4 at every step."""
    dense = torch.zeros(20, n, 4)
    dense[:, torch.arange(n), torch.arange(n) % 4] = 1
    return [
        {
            "label": torch.zeros(n).long(),
            "index": torch.arange(n),
            "events": EventBatch(*vars(SpikeTrains.from_dense(dense)).values()),
        }
    ]


def run(folder: Path, model: Recorder, epochs: int, ckpt: Path | None = None) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs, logger=False, callbacks=[LiquidMonitor(n_items=3)], enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=folder, enable_checkpointing=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(events(), batch_size=None)
    trainer.fit(model, loader, loader, ckpt_path=ckpt, weights_only=True)
    return trainer


def test_only_spaced_items_of_an_event_batch_are_recorded_once_per_change(tmp_path: Path) -> None:
    still, moving = Recorder(changes=False), Recorder(changes=True)
    run(tmp_path, still, 3)
    run(tmp_path, moving, 3)
    assert len(still.recorded) == 1
    assert len(moving.recorded) == 3
    batch = still.recorded[0]
    assert batch["index"].tolist() == [0, 4, 8]  # three of nine
    assert (
        batch["events"].channels.tolist() == [0] * 60
    )  # recordings 0, 4 and 8 have channel 0, once in each of 20 steps


def test_a_resumed_run_does_not_report_twice(tmp_path: Path) -> None:
    trainer = run(tmp_path, Recorder(changes=False), 1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    same = Recorder(changes=False)
    run(tmp_path, same, 2, tmp_path / "a.ckpt")
    assert same.recorded == []  # the checkpoint's weights were reported before it was written


def test_a_module_without_a_liquid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="LiquidMonitor needs a module with"):
        LiquidMonitor().setup(pl.Trainer(logger=False, accelerator="cpu"), pl.LightningModule(), "fit")
    with pytest.raises(ValueError, match="n_items=0"):
        LiquidMonitor(n_items=0)


def test_it_takes_part_in_the_table_of_coverage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, Recorder(changes=False), 1)
    out = capsys.readouterr().out
    assert "What the callbacks act on" in out
    assert "LiquidMonitor" in out
