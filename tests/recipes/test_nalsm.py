"""The NALSM recipes, end to end through the command line, with tiny data in the real file formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasticity_lightning.cli import main
from plasticity_lightning.cli.recipes import list_recipes
from plasticity_lightning.data import EmulatedNMNISTDataModule

RECIPES = [name for name in list_recipes() if name.startswith("nalsm/") and "overlays" not in name]
TINY = [
    "--model.init_args.shape=[3,3,4]",
    "--model.init_args.feature_steps=60",
    "--model.init_args.threads=1",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.batch_size=20",
]


@pytest.fixture(scope="module")
def root(image_root: Path) -> Path:
    """The shared image files, and digits seen by a simulated event camera as N-MNIST files."""
    camera = EmulatedNMNISTDataModule(images="digits", limit_train=60, limit_test=20)
    for split in ("train", "test"):
        camera.export(image_root / "nmnist", split)
    return image_root


def overrides(name: str, root: Path) -> list[str]:
    if "random_features" in name:
        return [*TINY[3:], "--model.init_args.n_features=50", f"--data.init_args.root={root}", "--data.init_args.val_size=20",
                "--data.init_args.download=false"]  # fmt: skip
    if name == "nalsm/quickstart":
        return [*TINY, "--data.init_args.limit_train=60"]
    if name.startswith("nalsm/nmnist_emulated"):
        return [*TINY, "--data.init_args.images=digits", "--data.init_args.val_size=20", "--data.init_args.limit_train=40",
                "--data.init_args.limit_test=20"]  # fmt: skip
    files = [*TINY, f"--data.init_args.root={root}", "--data.init_args.val_size=20"]
    return files if name == "nalsm/nmnist" else [*files, "--data.init_args.download=false"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_tests_and_says_where_to_look(
    name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["fit", "--config", name, *overrides(name, root), "--trainer.default_root_dir", str(tmp_path)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "test/accuracy" in output
    assert f"tensorboard --logdir {tmp_path}" in output
    assert (tmp_path / "version_0" / "checkpoints" / "last.ckpt").is_file()
    assert list((tmp_path / "version_0" / "features").rglob("*.npz"))


def test_overlays_merge(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    overlays = ("frozen", "original", "time_bins")
    arguments = [
        "--config",
        "nalsm/mnist",
        *(part for name in overlays for part in ("--config", f"nalsm/overlays/{name}")),
    ]
    rest = [*overrides("nalsm/mnist", root), "--model.init_args.readout_arguments={epochs: 20, batch_size: 10}"]
    assert main(["fit", *arguments, *rest, "--trainer.default_root_dir", str(tmp_path)]) == 0
    config = (tmp_path / "version_0" / "config.yaml").read_text()
    assert "freeze: true" in config
    assert "carry_trace: both" in config
    assert "time_bins: 5" in config


def test_a_finished_run_is_found_again_by_test(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    common = [
        "--config",
        "nalsm/quickstart",
        *overrides("nalsm/quickstart", tmp_path),
        "--trainer.default_root_dir",
        str(tmp_path),
    ]
    assert main(["fit", *common, "--test_after_fit=false"]) == 0
    assert main(["test", *common, "--ckpt_path=last"]) == 0
    assert "test/accuracy" in capsys.readouterr().out
    assert main(["fit", *common, "--test_after_fit=false"]) == 0
    assert (tmp_path / "version_1").is_dir()  # a second run never overwrites the first
