"""The control learns the digits with the readout of NALSM, and the same features serve the same projection only."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from plasticity_lightning.modules import RandomFeatureClassifier
from tests.modules.test_nalsm import data, trainer


def test_it_learns_the_digits_and_is_restored_from_its_checkpoint(tmp_path: Path) -> None:
    model, run = RandomFeatureClassifier(n_inputs=64, n_features=80, fan_in=8), trainer(tmp_path)
    run.fit(model, data())
    assert model.phase == "done"
    assert run.test(model, data(), verbose=False)[0]["test/accuracy"] > 0.8  # 200 training items; chance is 0.1
    run.save_checkpoint(tmp_path / "a.ckpt")
    loaded = RandomFeatureClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    again = torch.cat(trainer(tmp_path / "b").predict(loaded, data()))
    assert torch.equal(again, torch.cat(run.predict(model, data())))


class Scores(pl.Callback):
    """What validation logs while the readout is being fitted, beside the solver's own best."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.phase in ("readout", "done") and pl_module.solver is not None:
            self.found.append((float(trainer.callback_metrics["val/accuracy"]), pl_module.solver.best_val_accuracy))


def test_validation_scores_the_best_readout_so_far(tmp_path: Path) -> None:
    arguments = {"n_inputs": 64, "n_features": 40, "fan_in": 8, "readout": "adadelta"}
    model, scores, run = (
        RandomFeatureClassifier(**arguments, readout_arguments={"epochs": 30, "batch_size": 50, "lr": 1000.0}),
        Scores(),
        trainer(tmp_path),
    )
    run.callbacks.append(scores)
    run.fit(model, data())
    assert len(scores.found) > 2
    assert len({best for _, best in scores.found}) > 1  # it went on improving while it was watched
    for scored, best in scores.found:
        assert scored == pytest.approx(best, abs=1e-6)


def test_brightness_does_not_matter_and_the_seed_does() -> None:
    model = RandomFeatureClassifier(n_inputs=6, n_features=9, fan_in=3)
    model.output_scale.fill_(1.0)
    model.readout_weight.copy_(torch.rand(10, 9, generator=torch.Generator().manual_seed(0)))
    image = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    bright, dark = (model(model.make_features({"image": image * k}, "test")[0]) for k in (255.0, 0.01))
    assert torch.allclose(bright, dark, atol=1e-6)
    other = RandomFeatureClassifier(n_inputs=6, n_features=9, fan_in=3, seed=1)
    assert other.fingerprint() != model.fingerprint()


def test_images_without_ink_are_an_error(tmp_path: Path) -> None:
    model = RandomFeatureClassifier(n_inputs=64, n_features=20, fan_in=8)
    model.projection.neg_().clamp_(max=0)  # no feature can be positive any more
    with pytest.raises(ValueError, match="all features of all 200 training items are 0"):
        trainer(tmp_path).fit(model, data())


@pytest.mark.parametrize("arguments", [{"fan_in": 0}, {"n_features": 0}, {"n_classes": 1}, {"readout": "svm"}])
def test_bad_arguments_are_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RandomFeatureClassifier(**arguments)
