"""NALSM end to end on small data: phases, variants, resume, checkpoints and bad input."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import AstrocyteFeedback, LiquidMonitor
from plasticity_lightning.data import DigitsDataModule
from plasticity_lightning.modules import NALSM
from plasticity_lightning.runtime import AtomicCheckpoint, GracefulStop


def data(**arguments: object) -> DigitsDataModule:
    defaults = {
        "batch_size": 50,
        "val_size": 100,
        "limit_train": 200,
        "limit_test": 100,
        "dtype": "uint8",
        "with_index": True,
    }
    return DigitsDataModule(**{**defaults, **arguments})


def module(**arguments: object) -> NALSM:
    return NALSM(**{"n_inputs": 64, "shape": (4, 4, 5), "feature_steps": 100, "threads": 1, **arguments})


def trainer(folder: Path, *callbacks: pl.Callback, **arguments: object) -> pl.Trainer:
    defaults = {
        "max_epochs": -1,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
    }
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**defaults, **arguments})


def fit_and_test(folder: Path, *callbacks: pl.Callback, **arguments: object) -> tuple[NALSM, float]:
    model, run = module(**arguments), trainer(folder, *callbacks)
    run.fit(model, data())
    return model, run.test(model, data(), verbose=False)[0]["test/accuracy"]


def test_nalsm_learns_the_digits(tmp_path: Path) -> None:
    model, accuracy = fit_and_test(tmp_path, AstrocyteFeedback(weight=0.1), LiquidMonitor(n_items=3))
    assert model.phase == "done"
    assert accuracy > 0.8  # 200 training items; chance is 0.1
    assert not torch.equal(model.weight, model.liquid.weight.sign().double() * 3.0)  # the liquid has learned


@pytest.mark.parametrize(
    "arguments",
    [
        {"rule": "none", "initialise": False, "weight": 0.9},
        {"rule": "ap_stdp", "weight": 1.0, "freeze": True},
        {"readout": "ridge"},
        {"readout": "adadelta", "readout_arguments": {"epochs": 300, "batch_size": 20}},
    ],
    ids=["lsm", "ap-stdp", "ridge", "adadelta"],
)
def test_variants_are_configurations(tmp_path: Path, arguments: dict) -> None:
    model, accuracy = fit_and_test(tmp_path, **arguments)
    assert accuracy > 0.5
    if arguments.get("rule") == "none":
        assert torch.equal(model.weight.abs(), torch.full_like(model.weight, 0.9).float().double())


def test_the_astrocyte_changes_the_features(tmp_path: Path) -> None:
    with_it, _ = fit_and_test(tmp_path / "a", AstrocyteFeedback(weight=0.1))
    without, _ = fit_and_test(tmp_path / "b")
    assert not torch.equal(with_it.weight, without.weight)


def test_same_seed_same_result_and_another_seed_another_network(tmp_path: Path) -> None:
    first, a = fit_and_test(tmp_path / "a", AstrocyteFeedback())
    second, b = fit_and_test(tmp_path / "b", AstrocyteFeedback())
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.readout_weight, second.readout_weight)
    assert a == b
    assert module(seed=1).source.shape != first.source.shape or not torch.equal(module(seed=1).source, first.source)


class _SignalAt(pl.Callback):
    """Sends this process a SIGTERM in a given batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("stop", [2, 4, 6, 10], ids=["initialise", "end-of-initialise", "features", "readout"])
def test_resuming_after_a_signal_gives_the_uninterrupted_result(tmp_path: Path, stop: int) -> None:
    whole, accuracy = fit_and_test(tmp_path / "whole", AstrocyteFeedback())

    folder, common = tmp_path / "parts", {"enable_checkpointing": True}
    stopped = module()
    trainer(folder, AstrocyteFeedback(), GracefulStop(), _SignalAt(stop), AtomicCheckpoint(), **common).fit(
        stopped, data()
    )
    assert stopped.phase != "done"
    resumed, run = module(), trainer(folder, AstrocyteFeedback(), AtomicCheckpoint(), **common)
    run.fit(resumed, data(), ckpt_path=str(folder / "checkpoints" / "last.ckpt"), weights_only=True)
    assert resumed.phase == "done"
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.readout_weight, whole.readout_weight)
    assert run.test(resumed, data(), verbose=False)[0]["test/accuracy"] == accuracy


def test_finished_chunks_outlive_a_lost_checkpoint(tmp_path: Path) -> None:
    model, _ = fit_and_test(tmp_path, AstrocyteFeedback())
    chunks = sorted((tmp_path / "features").rglob("*.npz"))
    written = {path: path.stat().st_mtime_ns for path in chunks}
    again, _ = fit_and_test(tmp_path, AstrocyteFeedback())  # same fingerprint: nothing is simulated twice
    assert {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "features").rglob("*.npz"))} == written
    assert torch.equal(model.readout_weight, again.readout_weight)


def test_bins_and_traces_are_further_features_of_the_same_simulation(tmp_path: Path) -> None:
    plain, _ = fit_and_test(tmp_path, AstrocyteFeedback(weight=0.1))
    model, accuracy = fit_and_test(
        tmp_path,
        AstrocyteFeedback(weight=0.1),
        time_bins=4,
        readout_taus=(20.0, 50.0),
        readout_arguments={"patience": 5},
    )
    assert accuracy > 0.7
    assert model.fingerprint() != plain.fingerprint()
    assert model.readout_weight.shape == (10, 6 * 80)
    index = torch.arange(20)
    bins = model.store.counts("train", index).view(20, 6, 80)[:, :4]
    assert torch.equal(bins.sum(1), plain.store.counts("train", index).float())


def test_carried_traces_pass_through_items_whose_counts_are_kept(tmp_path: Path) -> None:
    first, again = module(carry_trace="both"), module(carry_trace="both")
    for model in (first, again):  # the second finds all counts in the store
        trainer(tmp_path, AstrocyteFeedback()).fit(model, data())
    assert float(first.trace.sum()) > 0
    assert torch.equal(first.trace, again.trace)


def test_checkpoint_restores_network_readout_and_astrocyte(tmp_path: Path) -> None:
    model, run = (
        module(seed=3),
        trainer(tmp_path, AstrocyteFeedback(weight=0.02), AtomicCheckpoint(), enable_checkpointing=True),
    )
    run.fit(model, data())
    loaded = NALSM.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert loaded.phase == "done"
    assert loaded.modulator == model.modulator
    assert torch.equal(loaded.source, model.source)
    expected = torch.cat(run.predict(model, data()))
    actual = torch.cat(trainer(tmp_path).predict(loaded, data()))
    assert torch.equal(actual, expected)
    assert torch.allclose(actual.sum(1), torch.ones(len(actual)))


def test_original_quirks_run(tmp_path: Path) -> None:
    _, accuracy = fit_and_test(
        tmp_path, AstrocyteFeedback(weight=0.1), test_scale="own", feature_scaling="batch", carry_trace="both"
    )
    assert accuracy > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "hebb"}, "rule='hebb'"),
        ({"rule": "none"}, "initialise=False"),
        ({"weight": 4.0}, "w_max=3.0"),
        ({"readout": "svm"}, "readout='svm'"),
        ({"feature_steps": 0}, "feature_steps=0"),
        ({"time_bins": 0}, "n_bins=0"),
        ({"readout_taus": (-1.0,)}, "taus="),
        ({"n_classes": 1}, "n_classes=1"),
        ({"input_density": 1.5}, "input_density=1.5"),
        ({"scale": -1.0}, r"scale=-1\.0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**arguments)


def test_wrong_image_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images have 64 values, the network n_inputs=784"):
        trainer(tmp_path).fit(module(n_inputs=784), data())


def test_a_liquid_that_never_fires_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never fired"):
        trainer(tmp_path).fit(module(rule="none", initialise=False, weight=1e-3), data())


def test_testing_an_untrained_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="no readout yet"):
        trainer(tmp_path).test(module(), data(), verbose=False)
