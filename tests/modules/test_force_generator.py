"""Closed-loop FORCE: learning changes the decoder, resume is exact, the measures of a generated signal."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.data import PeriodicSignalDataModule
from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.measures.periodic import amplitude_ratio, best_lag_correlation, dominant_frequency
from plasticity_lightning.modules import ForceGenerator
from plasticity_lightning.runtime import AtomicCheckpoint


def signal(**changes) -> PeriodicSignalDataModule:
    return PeriodicSignalDataModule(
        **{"piece_ms": 20.0, "settle_ms": 40.0, "learn_ms": 120.0, "free_ms": 400.0, "validate_ms": 400.0, **changes}
    )


class Killed(Exception):
    pass


class Kill(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx == 5:
            raise Killed


def fit(model, folder, batches=None, resume=None, callbacks=()):
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, limit_train_batches=batches, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, AtomicCheckpoint(str(folder), every_n_batches=1)],
    )  # fmt: skip
    trainer.fit(model, signal(), ckpt_path=resume, weights_only=True if resume else None)
    return trainer


def test_it_settles_learns_and_runs_free(tmp_path):
    model = ForceGenerator(n_neurons=60, lanes=2, threads=1)
    trainer = fit(model, tmp_path, batches=2)  # settling alone
    assert not bool(model.readout_weight.any())
    model = ForceGenerator(n_neurons=60, lanes=2, threads=1)
    trainer = fit(model, tmp_path / "b")
    assert bool(model.readout_weight.abs().sum((1, 2)).gt(0).all())
    assert trainer.global_step == 8
    kept = model.readout_weight.clone()
    metrics = trainer.test(model, datamodule=signal(), verbose=False)[0]
    assert torch.equal(model.readout_weight, kept)
    assert {"test/frequency_hz", "test/best_lag_correlation", "test/lane_1/amplitude_ratio"} <= metrics.keys()
    # validation, as long here, and prediction are the same free run, which leaves the state where it was
    validated = trainer.validate(model, datamodule=signal(), verbose=False)[0]
    for name, value in metrics.items():
        assert validated[name.replace("test", "val")] == pytest.approx(value, nan_ok=True), name
    first, again = trainer.predict(model, datamodule=signal()), trainer.predict(model, datamodule=signal())
    assert len(first) == 20
    assert first[0]["output"].shape == (2, 500)  # 20 ms in steps of 0.04
    assert all(torch.equal(a["output"], b["output"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["output"], first[1]["output"])


def test_resumed_at_any_piece_everything_is_equal(tmp_path):
    whole = ForceGenerator(n_neurons=40, lanes=1, threads=1)
    fit(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(ForceGenerator(n_neurons=40, lanes=1, threads=1), tmp_path / "part", callbacks=[Kill()])
    again = ForceGenerator(n_neurons=40, lanes=1, threads=1)
    fit(again, tmp_path / "again", resume=str(tmp_path / "part" / "last.ckpt"))
    for (name, a), (_, b) in zip(again.state_dict().items(), whole.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_frequency_amplitude_and_shape_of_a_sine():
    t = torch.arange(3000.0)
    target = torch.sin(2 * math.pi * 5 * t / 1000)
    shifted = 1.2 * torch.sin(2 * math.pi * 5 * t / 1000 + 1.0) + 0.3
    assert dominant_frequency(shifted, 1.0).item() == pytest.approx(5.0, abs=0.02)
    assert amplitude_ratio(shifted, target).item() == pytest.approx(1.2, rel=1e-3)
    assert best_lag_correlation(shifted, target, 0).item() == pytest.approx(math.cos(1.0), abs=0.01)
    assert best_lag_correlation(shifted, target, 101).item() == pytest.approx(1.0, abs=1e-3)
    assert dominant_frequency(torch.ones(100), 1.0).isnan()
    assert best_lag_correlation(torch.ones(100), torch.rand(100), 3).isnan()


def test_bad_input_is_told():
    for bad in (
        {"frequency_hz": 0.0},
        {"dt_ms": 0.0},
        {"piece_ms": 0.05},
        {"learn_ms": 1.0},
        {"settle_ms": -1.0},
        {"validate_ms": 1.0},
    ):
        with pytest.raises(DataArgumentError, match=next(iter(bad))):
            PeriodicSignalDataModule(**{"piece_ms": 20.0, **bad})
    for bad in ({"n_neurons": 0}, {"lanes": 0}, {"period": 0}, {"alpha": 0.0}, {"feedback": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ForceGenerator(**{"n_neurons": 10, **bad})
    with pytest.raises(ValueError, match="lags"):
        best_lag_correlation(torch.rand(10), torch.rand(10), 5)
    with pytest.raises(MisconfigurationException, match=r"dt_ms=0\.1"):
        pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False).fit(
            ForceGenerator(n_neurons=10), signal(dt_ms=0.1)
        )
