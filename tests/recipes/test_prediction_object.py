"""The recipes of the prediction object, end to end through the command line, on tiny reservoirs and few trials."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from plasticity_lightning.cli import main
from plasticity_lightning.cli.recipes import list_recipes

FAMILY = [name for name in list_recipes() if name.startswith("prediction_object/")]
GENERATORS = ["prediction_object/nicola_clopath"]
RECIPES = [name for name in FAMILY if "overlays" not in name and name not in GENERATORS]
OVERLAYS = [name for name in FAMILY if "overlays" in name]
TINY = [
    "--model.init_args.reservoir.n_neurons=40",
    "--model.init_args.lanes=1",
    "--model.init_args.threads=1",
    "--data.init_args.lanes=1",
    "--data.init_args.lead_in_blocks=1",
    "--data.init_args.probe_every=2",
    "--trainer.limit_train_batches=16",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]

TINY_GENERATOR = [
    "--model.init_args.n_neurons=60",
    "--model.init_args.lanes=1",
    "--data.init_args.settle_ms=20",
    "--data.init_args.piece_ms=20",
    "--data.init_args.learn_ms=100",
    "--data.init_args.free_ms=400",
]


def fit(configs: list[str], folder: Path, *more: str) -> int:
    named = [part for name in configs for part in ("--config", name)]
    return main(["fit", *named, *TINY, *more, "--trainer.default_root_dir", str(folder)])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_scores_and_draws(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit([name], tmp_path) == 0
    output = capsys.readouterr().out
    assert "test/timing_error_ms" in output
    assert "test/r " in output
    assert f"tensorboard --logdir {tmp_path}" in output
    run = tmp_path / "version_0"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    drawn = {path.stem for path in (run / "figures").glob("*.png")}
    assert {"readouts", "amplitudes", "probabilities", "raster"} <= drawn


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda name: name.split("/")[-1])
def test_overlay_runs_on_the_standard_recipe(overlay: str, tmp_path: Path) -> None:
    assert fit(["prediction_object/standard", overlay], tmp_path, "--trainer.limit_train_batches=8") == 0
    plain = yaml.safe_load(Path(list_recipes()["prediction_object/standard"][0]).read_text())
    saved = yaml.safe_load((tmp_path / "version_0" / "config.yaml").read_text())
    changed = yaml.safe_load(Path(list_recipes()[overlay][0]).read_text())
    assert changed.keys() <= {"model", "data", "trainer"}
    assert plain != saved


def test_the_same_command_runs_a_foil_without_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wrong = ["--model.init_args.rule=force"]
    assert fit(["prediction_object/standard"], tmp_path, *wrong) == 2
    assert "remove the callback" in capsys.readouterr().err


def test_compare_sets_rules_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("standard", "lms"):
        assert fit([f"prediction_object/{name}"], tmp_path / name) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "standard"), str(tmp_path / "lms")]) == 0
    table = capsys.readouterr().out
    assert "test/timing_error_ms" in table
    assert "standard" in table
    assert "lms" in table
    labelled = [f"{name}={tmp_path / name}" for name in ("standard", "lms")]
    assert main(["prediction-rules", *labelled]) == 0
    table = capsys.readouterr().out
    assert "to probability" in table
    assert "lms" in table
    assert (
        main(["prediction-rules", *labelled, "--output", str(tmp_path / "x.png")]) == 2
    )  # nothing changed in so few trials
    assert main(["prediction-rules", f"none={tmp_path / 'nowhere'}"]) == 2
    assert "no last.ckpt" in capsys.readouterr().err


def test_generator_learns_and_runs_free(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    where = ["--trainer.enable_progress_bar=false", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", *GENERATORS, *TINY_GENERATOR, *where]) == 0
    assert "test/frequency_hz" in capsys.readouterr().out
