"""The GraNet recipes, end to end through the command line, with tiny data in the real file formats."""

from __future__ import annotations

import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from plasticity_lightning.cli import main
from plasticity_lightning.cli.recipes import list_recipes
from plasticity_lightning.sparsity.masks import unpack

RECIPES = [name for name in list_recipes() if name.startswith("granet/") and "overlays" not in name]
OVERLAYS = [name for name in list_recipes() if name.startswith("granet/overlays/")]
METHODS = [name for name in OVERLAYS if "sparsity" not in name and "published_code" not in name]
TINY = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.max_epochs=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
EVERY_STEP = ["--trainer.callbacks.init_args.every=1", "--trainer.callbacks.init_args.prune_end=0.5"]


def cifar(folder: Path, label: str, n_classes: int, files: dict[str, int]) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, n in files.items():
        data = rng.integers(0, 255, (n, 3072), np.uint8)
        content = {b"data": data, label.encode(): [i % n_classes for i in range(n)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture(scope="module")
def root(image_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST, CIFAR-10 and -100 batches and ImageNet's folders, with a handful of images each."""
    folder = tmp_path_factory.mktemp("granet")
    (folder / "fashion-mnist").symlink_to(image_root / "fashion-mnist")
    cifar(
        folder / "cifar-10-batches-py", "labels", 10, {**{f"data_batch_{i}": 6 for i in range(1, 6)}, "test_batch": 8}
    )
    cifar(folder / "cifar-100-python", "fine_labels", 100, {"train": 30, "test": 8, "meta": 1})
    for split, n in (("train", 8), ("val", 3)):
        for label, name in enumerate(("n01440764", "n01443537")):
            (folder / "imagenet" / split / name).mkdir(parents=True)
            for number in range(n):
                image = Image.new("RGB", (40, 50), (100 * label, 5 * number, 0))
                image.save(folder / "imagenet" / split / name / f"{name}_{number}.JPEG")
    return folder


def overrides(name: str, root: Path) -> list[str]:
    """What makes a recipe tiny: data, network, length."""
    files = [f"--data.init_args.root={root}", "--data.init_args.batch_size=8"]
    if "pruning_plasticity" not in name:
        files += EVERY_STEP
    if "quickstart" in name:
        return [*TINY, *EVERY_STEP, "--data.init_args.limit_train=64", "--trainer.check_val_every_n_epoch=1"]
    if "imagenet" in name:
        data = ["--data.init_args.image_size=32", "--data.init_args.resize=40", "--data.init_args.num_workers=0"]
        net = "{n_classes: 1000, initialisation: fan_in, width: 4, depths: [1, 1, 1, 1]}"
        return [*TINY, *files, *data, f"--model.init_args.network_arguments={net}"]
    if "cifar" in name:
        n = 100 if "cifar100" in name else 10
        small = f"{{n_classes: {n}, width: 4}}" if "small" not in name else "{widths: [4, 8, 8, 8]}"
        data = ["--data.init_args.val_size=6", "--data.init_args.download=false"]
        return [*TINY, *files, *data, f"--model.init_args.network_arguments={small}"]
    return [*TINY, *files, "--data.init_args.val_size=20", "--data.init_args.download=false"]


def callback_of(run: Path) -> dict[str, Any]:
    """Arguments of the scheduler as the run saved them."""
    callback = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    return (callback[0] if isinstance(callback, list) else callback)["init_args"]


def masks_of_run(run: Path) -> dict[str, torch.Tensor]:
    """Masks of the run's last checkpoint."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    (state,) = (value for key, value in content["callbacks"].items() if key.startswith("PruneRegrowScheduler"))
    (group,) = state["groups"]
    return {name: unpack(group["masks"][name], shape) for name, shape in group["shapes"].items()}


def absent(run: Path) -> tuple[int, int]:
    """(weights that the masks exclude, all masked weights), after a check that the checkpoint's weights obey the masks."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    masks = masks_of_run(run)
    assert len(masks) == sum(value.dim() >= 2 for value in content["state_dict"].values())
    for name, mask in masks.items():
        assert not content["state_dict"][name][~mask].any()
    return sum(int((~mask).sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())


def trains(root: Path, folder: Path, name: str, *overlays: str) -> bool:
    """Whether two tiny epochs of the recipe with overlays end well."""
    configs = [part for config in (name, *overlays) for part in ("--config", config)]
    short = ["--test_after_fit=false", "--trainer.logger=false", "--trainer.default_root_dir", str(folder)]
    return main(["fit", *configs, *overrides(name, root), *short]) == 0


def siblings(name: str) -> str:
    """The recipe's name without its sparsity."""
    return re.sub(r"_\d\d$", "", name)


LOWEST = {siblings(name): name for name in sorted(RECIPES, reverse=True)}


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in LOWEST.values()])
def test_a_sparser_sibling_trains_and_differs_by_its_sparsity_alone(name: str, root: Path, tmp_path: Path) -> None:
    recipe, lowest = (yaml.safe_load(list_recipes()[n][0].read_text()) for n in (name, LOWEST[siblings(name)]))
    assert recipe["trainer"]["callbacks"]["init_args"].pop("sparsity") == int(name[-2:]) / 100
    lowest["trainer"]["callbacks"]["init_args"].pop("sparsity")
    assert recipe == lowest
    assert trains(root, tmp_path, name)


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if "sparsity" in name])
def test_a_sparsity_is_an_overlay(overlay: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert trains(root, tmp_path, "granet/quickstart", overlay)
    capsys.readouterr()
    arguments = ["fit", "--config", "granet/quickstart", "--config", overlay, "--print_config"]
    assert main(arguments) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["callbacks"]["init_args"]["sparsity"] == int(overlay[-2:]) / 100


@pytest.mark.parametrize("name", sorted(LOWEST.values()))
def test_recipe_trains_tests_and_reaches_its_sparsity(
    name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["fit", "--config", name, *overrides(name, root), "--trainer.default_root_dir", str(tmp_path)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "test/accuracy" in output
    assert f"tensorboard --logdir {tmp_path}" in output
    run = tmp_path / "version_0"
    if "pruning_plasticity" in name:
        assert (run / "checkpoints" / "epoch_1.ckpt").is_file()
        return
    sparsity = callback_of(run)["sparsity"]
    if name[-2:].isdigit():
        assert sparsity == int(name[-2:]) / 100
    excluded, total = absent(run)
    assert excluded == total - math.floor(total * (1 - sparsity) + 1e-6)


@pytest.mark.parametrize("overlay", METHODS)
def test_a_method_and_a_sparsity_are_overlays(overlay: str, root: Path, tmp_path: Path) -> None:
    name = "granet/fashion_mnist"
    arguments = ["--config", name, "--config", overlay, "--config", "granet/overlays/sparsity_80"]
    rest = [*overrides(name, root), "--model.init_args.network_arguments={widths: [20]}", "--test_after_fit=false"]
    assert main(["fit", *arguments, *rest, "--trainer.default_root_dir", str(tmp_path)]) == 0
    given, run = callback_of(tmp_path / "version_0"), tmp_path / "version_0"
    overlaid = yaml.safe_load(list_recipes()[overlay][0].read_text())["trainer"]["callbacks"]["init_args"]
    # the overlay replaces its own arguments and leaves the rest of the recipe's
    assert {key: given[key] for key in overlaid} == overlaid
    assert given["every"] == 1
    excluded, total = absent(run)
    if given["method"] == "srigl":  # one fan-in a layer, over the neurons that are left: 20 and 10 of them
        assert 0 <= excluded - (total - math.floor(0.2 * total)) <= 20 + 10
        for mask in masks_of_run(run).values():
            fan_ins = mask.sum(1)
            assert len(fan_ins[fan_ins > 0].unique()) == 1
        return
    assert excluded == (0 if given["method"] == "dense" else total - math.floor(0.2 * total + 1e-6))


def test_further_callbacks_join_the_one_of_a_recipe(root: Path, tmp_path: Path) -> None:
    arguments = [*overrides("granet/fashion_mnist", root), "--test_after_fit=false"]
    more = ["--trainer.callbacks+=PlasticityMonitor", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", "granet/fashion_mnist", *arguments, *more]) == 0
    config = yaml.safe_load((tmp_path / "version_0" / "config.yaml").read_text())
    names = [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]]
    assert names == ["PruneRegrowScheduler", "PlasticityMonitor"]


def test_the_published_codes_quirks_are_an_overlay(root: Path, tmp_path: Path) -> None:
    name = "granet/fashion_mnist"
    overlays = ["granet_s2s", "published_code", "sparsity_98"]
    arguments = [x for overlay in overlays for x in ("--config", f"granet/overlays/{overlay}")]
    arguments += [*overrides(name, root), "--test_after_fit=false", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", name, *arguments]) == 0
    excluded, total = absent(tmp_path / "version_0")
    assert excluded < total - math.floor(0.02 * total)  # one pruning event short


def test_the_pruning_plasticity_of_a_recipes_checkpoints(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name = "granet/pruning_plasticity"
    common = ["--config", name, *overrides(name, root), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *common, "--test_after_fit=false"]) == 0
    checkpoint = tmp_path / "version_0" / "checkpoints" / "epoch_1.ckpt"
    command = ["pruning-plasticity", *common, "--ckpt_path", str(checkpoint), "--epochs=1", "--prune_rates=[0.5,0.9]"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "pruning plasticity: val/accuracy, 1 more epochs" in output
    folder = tmp_path / "pruning_plasticity" / "version_0"
    outcomes = json.loads((folder / "outcomes.json").read_text())
    assert [(o["rate"], o["regenerate"]) for o in outcomes] == [(0.5, False), (0.9, False), (0.5, True), (0.9, True)]
    assert {o["epoch"] for o in outcomes} == {2}
    assert (folder / "plasticity.png").read_bytes().startswith(b"\x89PNG")
    assert [o["sparsity"] for o in outcomes[:2]] == pytest.approx([0.5, 0.9], abs=1e-4)
