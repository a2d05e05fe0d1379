"""LiquidMonitor: what reaches TensorBoard, and what is refused."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plasticity_lightning.callbacks import AstrocyteFeedback, LiquidMonitor
from plasticity_lightning.data import DigitsDataModule
from plasticity_lightning.modules import NALSM


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


def test_a_module_without_a_liquid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="LiquidMonitor needs a module with"):
        LiquidMonitor().setup(pl.Trainer(logger=False, accelerator="cpu"), pl.LightningModule(), "fit")
    with pytest.raises(ValueError, match="n_items=0"):
        LiquidMonitor(n_items=0)
