"""The recipes of the plasticity bench and their overlays, end to end through the command line, on tiny data."""

from pathlib import Path

import pytest

from plasticity_lightning.cli import main
from plasticity_lightning.cli.recipes import list_recipes

FAMILY = [name for name in list_recipes() if name.startswith("plasticity_bench/")]
RECIPES = [name for name in FAMILY if "overlays" not in name]
OVERLAYS = [name for name in FAMILY if "overlays" in name]
DIGITS = ["--data.init_args.images=digits", "--data.init_args.limit_train=40", "--data.init_args.batch_size=10"]
DIGITS_MLP = ["--model.init_args.network.init_args.in_features=64"]
DIGITS_CNN = ["--model.init_args.network.init_args.image_shape=[1,8,8]", "--model.init_args.network.init_args.width=4"]
TINY = {
    "permuted_mnist": [*DIGITS, *DIGITS_MLP, "--data.init_args.val_size=20", "--data.init_args.limit_test=20",
                       "--trainer.check_val_every_n_epoch=2"],
    "random_label_mnist": [*DIGITS, *DIGITS_MLP],
    "shuffled_label_cifar10": [*DIGITS, *DIGITS_CNN, "--data.init_args.normalize=false"],
    "warm_start": [*DIGITS, *DIGITS_CNN, "--data.init_args.val_size=20", "--data.init_args.limit_test=20"],
    "class_incremental_cifar100": [*DIGITS, *DIGITS_CNN],
    "slowly_changing_regression": ["--data.init_args.samples_per_task=40"],
}  # fmt: skip


def fit(name: str, folder: Path, *configs: str) -> int:
    arguments = ["fit"]
    for config in (name, *configs):
        arguments += ["--config", config]
    arguments += [*TINY[name.split("/")[1]], "--trainer.max_epochs=4", "--data.init_args.epochs_per_task=2"]
    arguments += ["--trainer.log_every_n_steps=2", "--trainer.enable_progress_bar=false"]
    return main([*arguments, "--trainer.enable_model_summary=false", f"--trainer.default_root_dir={folder}"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_and_its_runs_compare(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(name, tmp_path) == 0
    output = capsys.readouterr().out
    assert f"tensorboard --logdir {tmp_path}" in output
    tested = name.split("/")[1] in ("permuted_mnist", "warm_start", "class_incremental_cifar100")
    assert ("test/accuracy" in output) == tested
    assert main(["compare", str(tmp_path), "--tasks", "1"]) == 0
    table = capsys.readouterr().out
    assert "mse" in table if "regression" in name else "accuracy" in table


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_merges_and_trains(overlay: str, tmp_path: Path) -> None:
    base = "warm_start" if overlay.endswith("cold_start") else "random_label_mnist"
    assert fit(f"plasticity_bench/{base}", tmp_path, overlay) == 0
    assert (tmp_path / "version_0" / "checkpoints" / "last.ckpt").is_file()


def test_weight_decay_keeps_the_learning_rate_of_the_recipe(tmp_path: Path) -> None:
    assert fit("plasticity_bench/random_label_mnist", tmp_path, "plasticity_bench/overlays/weight_decay") == 0
    config = (tmp_path / "version_0" / "config.yaml").read_text()
    assert "torch.optim.AdamW" in config
    assert "lr: 0.001" in config
