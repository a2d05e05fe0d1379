"""PredictionMonitor and SubspaceMonitor: figures, resume, and what they refuse; on a tiny prediction object."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from plasticity_lightning.callbacks import PredictionMonitor, SelectivityMonitor, SubspaceMonitor
from plasticity_lightning.callbacks.prediction.subspace_monitor import NULLS, subspace_angles
from plasticity_lightning.data.prediction_task import PredictionTaskDataModule
from plasticity_lightning.data.prediction_world import Cue, Phase
from plasticity_lightning.modules import PredictionObject
from plasticity_lightning.runtime import AtomicCheckpoint
from plasticity_lightning.spiking.reservoir import ReservoirOptions


def data() -> PredictionTaskDataModule:
    cues = [Cue([latency], [p, 1 - p]) for latency in (200.0, 300.0) for p in (0.8, 0.2)]
    return PredictionTaskDataModule(
        [Phase(cues, blocks=6)], lead_in_blocks=1, probe_every=3, window_ms=450, trial_ms=500, interval_ms=(50, 50)
    )


def module(**arguments) -> PredictionObject:
    return PredictionObject(ReservoirOptions(n_neurons=50, n_channels=6), threads=1, **arguments)


def fit(model, callbacks, folder, resume=None, batches=None):
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=TensorBoardLogger(folder, name="", version="run"), limit_train_batches=batches,
        enable_checkpointing=any(isinstance(c, AtomicCheckpoint) for c in callbacks), enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, log_every_n_steps=5,
    )  # fmt: skip
    trainer.fit(model, data(), ckpt_path=resume, weights_only=True if resume else None)
    return trainer


class Killed(Exception):
    pass


class Kill(pl.Callback):
    """Ends the process, as it were, in trial 12: two trials after the checkpoint."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx == 12:
            raise Killed


BANK = {"bank_ms": [200.0, 300.0]}


def test_figures_are_drawn_and_the_raster_moves_nothing(tmp_path):
    with_raster, without = module(), module()
    fit(with_raster, [PredictionMonitor(outcomes=["left", "right"])], tmp_path / "a")
    fit(without, [PredictionMonitor(raster=False)], tmp_path / "b")
    drawn = {p.stem for p in (tmp_path / "a" / "run" / "figures").glob("*.png")}
    assert drawn == {"readouts", "amplitudes", "probabilities", "raster"}
    assert torch.equal(with_raster.state_v, without.state_v)
    assert torch.equal(with_raster.state_step, without.state_step)


def test_figures_of_a_resumed_run_are_the_same_to_the_byte(tmp_path):
    saver = AtomicCheckpoint(str(tmp_path / "ck"), every_n_batches=10)
    with pytest.raises(Killed):
        fit(module(), [Kill(), saver], tmp_path / "part")
    fit(module(), [PredictionMonitor()], tmp_path / "rest", resume=str(tmp_path / "ck" / "last.ckpt"))
    fit(module(), [PredictionMonitor()], tmp_path / "whole")
    for drawn in (tmp_path / "whole" / "run" / "figures").glob("*.png"):
        assert drawn.read_bytes() == (tmp_path / "rest" / "run" / "figures" / drawn.name).read_bytes(), drawn.name


def test_angles_are_measured_with_their_nulls(tmp_path):
    monitor = SubspaceMonitor(every=6, draws=20)
    trainer = fit(module(rule_arguments=BANK), [monitor], tmp_path)
    assert [int(m["trial"]) for m in monitor.history] == [6, 12, 18, 24]
    last = monitor.history[-1]
    assert last["weights_null"].shape == (1, len(NULLS), 3)
    assert bool(((last["weights"] >= 0) & (last["weights"] <= 90)).all())
    assert bool((last["weights_null"][..., 0] <= last["weights_null"][..., 2]).all())
    assert "subspaces/signals" in trainer.callback_metrics
    assert (tmp_path / "run" / "figures" / "subspaces.png").is_file()


def test_a_resumed_run_measures_the_same_angles(tmp_path):
    whole, part, rest = (SubspaceMonitor(every=6, draws=20) for _ in range(3))
    fit(module(rule_arguments=BANK), [whole], tmp_path / "whole")
    saver = AtomicCheckpoint(str(tmp_path / "ck"), every_n_batches=10)
    with pytest.raises(Killed):
        fit(module(rule_arguments=BANK), [part, Kill(), saver], tmp_path / "part")
    fit(module(rule_arguments=BANK), [rest], tmp_path / "rest", resume=str(tmp_path / "ck" / "last.ckpt"))
    assert len(rest.history) == len(whole.history)
    for a, b in zip(rest.history, whole.history, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)
    assert torch.equal(rest.covariance, whole.covariance)


def test_angle_of_orthogonal_subspaces_and_a_null_that_needs_no_tags():
    bank, contrast = torch.eye(4)[:2], torch.eye(4)[2:3]
    angles, nulls = subspace_angles(
        bank, contrast, torch.eye(4), torch.eye(4), None, torch.Generator().manual_seed(0), 20
    )
    assert angles["weights"].item() == angles["signals"].item() == pytest.approx(90.0)
    assert nulls["weights"][NULLS.index("shuffled")].isnan().all()
    assert nulls["weights"][NULLS.index("states")][2].item() == pytest.approx(90.0)


def test_selectivity_is_measured_with_the_last_trial_and_resumes(tmp_path):
    whole, part, rest = (SelectivityMonitor(permutations=20) for _ in range(3))
    trainer = fit(module(), [whole], tmp_path / "whole")
    metrics = trainer.callback_metrics
    assert 0 <= metrics["selectivity/mixed_fraction"] <= 1
    shares = sum(float(metrics[f"selectivity/{name}_share"]) for name in ("time", "cue", "interaction"))
    assert shares == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(Killed):
        fit(module(), [part, Kill(), AtomicCheckpoint(str(tmp_path / "ck"), every_n_batches=10)], tmp_path / "part")
    resumed = fit(module(), [rest], tmp_path / "rest", resume=str(tmp_path / "ck" / "last.ckpt"))
    for name, value in metrics.items():
        if name.startswith("selectivity"):
            assert torch.equal(resumed.callback_metrics[name], value), name


def test_refusals(tmp_path):
    class Plain(pl.LightningModule):
        def training_step(self, batch, i):
            return None

        def configure_optimizers(self):
            return None

    for monitor in (PredictionMonitor(), SubspaceMonitor(), SelectivityMonitor()):
        with pytest.raises(MisconfigurationException, match="HasPrediction"):
            fit(Plain(), [monitor], tmp_path)
    with pytest.raises(MisconfigurationException, match="bank_ms"):
        fit(module(), [SubspaceMonitor()], tmp_path)
    with pytest.raises(MisconfigurationException, match="lane=3"):
        fit(module(), [PredictionMonitor(lane=3)], tmp_path)
    with pytest.raises(MisconfigurationException, match="outcomes"):
        fit(module(), [PredictionMonitor(outcomes=["A"])], tmp_path)
    for bad in (
        lambda: PredictionMonitor(lane=-1),
        lambda: SelectivityMonitor(permutations=1),
        lambda: SubspaceMonitor(every=0),
        lambda: SubspaceMonitor(draws=2),
        lambda: SubspaceMonitor(eta=2),
    ):
        with pytest.raises(ValueError, match="must"):
            bad()
