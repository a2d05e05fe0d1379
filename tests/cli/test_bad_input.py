"""Every mistake in files, folders and numbers is one message and status 2, without a traceback."""

from __future__ import annotations

import os
import sys
import time
import types
from pathlib import Path

import pytest
import torch
import yaml

from plasticity_lightning.cli import main
from plasticity_lightning.cli.yaml_bounds import check_yaml
from plasticity_lightning.errors import UserError

TRAINER = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
}
BASE = {
    "model": {"class_path": "tests.cli.toys.ToyModule"},
    "data": {"class_path": "tests.cli.toys.ToyData"},
    "trainer": TRAINER,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a recipe and a finished run of it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "toy.yaml").write_text(yaml.safe_dump(BASE))
    assert main(["fit", "--config", str(folder / "toy.yaml"), f"--trainer.default_root_dir={folder / 'runs'}"]) == 0
    return folder


def told(capsys: pytest.CaptureFixture, arguments: list[str], status: int = 2) -> str:
    assert main(arguments) == status
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plasticity: error:")]
    assert len(errors) == 1, errors
    return errors[0]


def other_weights(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {name + "_old": value for name, value in content["state_dict"].items()}
    torch.save(content, path)


def of_an_old_version(path: Path) -> None:
    """A class that is gone stands in a checkpoint, as another version of the package may have written it."""
    gone = types.ModuleType("plasticity_lightning.gone")
    gone.Options = type("Options", (), {"__module__": gone.__name__})
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["options"] = gone.Options()
    sys.modules[gone.__name__] = gone
    torch.save(content, path)
    del sys.modules[gone.__name__]


def without_an_entry(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    (key,) = (key for key in content["callbacks"] if key.startswith("AtomicCheckpoint"))
    del content["callbacks"][key]["best_score"]
    torch.save(content, path)


DAMAGE = {
    "format of before version 1.6": lambda path: torch.save(
        torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False
    ),
    "names plasticity_lightning.gone.Options, which a later version of the package may have moved": of_an_old_version,
    "no entry 'best_score'; it may be of another model or of an older version": without_an_entry,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "is empty": lambda path: path.write_bytes(b""),
    "no checkpoint of torch": lambda path: path.write_bytes(b"\x89PNG" * 50),
    "does not fit the model": other_weights,
    "weights only": lambda path: torch.save({"state_dict": torch.load(path, weights_only=True)["state_dict"]}, path),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_bad_checkpoint(fault: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes((finished / "runs/version_0/checkpoints/last.ckpt").read_bytes())
    DAMAGE[fault](path)
    arguments = [
        "--config",
        str(finished / "toy.yaml"),
        f"--ckpt_path={path}",
        f"--trainer.default_root_dir={tmp_path / 'runs'}",
    ]
    assert fault in told(capsys, ["fit", *arguments])


def test_max_epochs_behind_the_checkpoint(finished: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "--config",
        str(finished / "toy.yaml"),
        f"--trainer.default_root_dir={finished / 'runs'}",
        "--trainer.max_epochs=1",
    ]
    assert "at the end of epoch 2, at step 16, behind max_epochs=1" in told(
        capsys, ["fit", *arguments, "--ckpt_path=last"]
    )


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--seed_everything=-1", ["seed_everything", "-1"]),
        ("--trainer.default_root_dir={file}", ["no run folder can be made", "default_root_dir"]),
        ("--ckpt_path={folder}", ["is a folder"]),
        ("--config={binary}", ["is no recipe", "not UTF-8"]),
        ("--config={cycle}", ["its own anchor"]),
        ("--config={bomb}", ["100000 values"]),
        ("--config={broken}", ["is no YAML"]),
    ],
)
def test_bad_flags_and_files(flag: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(BASE))
    files = {name: tmp_path / f"{name}.yaml" for name in ("file", "binary", "cycle", "bomb", "broken")}
    files["file"].write_text("x: 1")
    files["binary"].write_bytes(os.urandom(8) + b"\xff\xfe\x00")
    files["cycle"].write_text("model: &a {init_args: *a}")
    files["bomb"].write_text(
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    )
    files["broken"].write_text("a: [1, 2")
    started = time.monotonic()
    root = [] if "default_root_dir" in flag else [f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    message = told(
        capsys, ["fit", "--config", str(tmp_path / "toy.yaml"), *root, flag.format(folder=tmp_path, **files)]
    )
    assert all(word in message for word in words), message
    assert time.monotonic() - started < 60


def test_aliases_as_recipes_use_them_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("base: &b {a: 1, c: [1, 2]}\nfirst: *b\nsecond: {<<: *b, a: 2}\n")
    check_yaml(path)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError):
        check_yaml(path)


def test_a_data_file_that_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (tmp_path / "mnist" / name).mkdir(parents=True)
    arguments = [
        "fit",
        "--config",
        "nalsm/mnist",
        f"--data.init_args.root={tmp_path}",
        f"--trainer.default_root_dir={tmp_path / 'runs'}",
    ]
    assert "is a folder" in told(capsys, [*arguments, "--data.init_args.download=false"])


def test_damaged_features(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "trainer: {accelerator: cpu, max_epochs: -1, num_sanity_val_steps: 0, enable_progress_bar: false, logger: false}\n"
        "model: {class_path: RandomFeatureClassifier, init_args: {n_inputs: 64, n_features: 20, fan_in: 8, readout: ridge}}\n"
        "data: {class_path: DigitsDataModule, init_args: {batch_size: 20, limit_train: 40, dtype: uint8, with_index: true}}\n"
    )
    arguments = [
        "fit",
        "--config",
        str(recipe),
        f"--model.init_args.cache_dir={tmp_path / 'c'}",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    assert main(arguments) == 0
    chunk = next((tmp_path / "c").rglob("*.npz"))
    chunk.write_bytes(chunk.read_bytes()[:100])
    assert f"{chunk} is no readable chunk" in told(capsys, arguments)


def test_a_diverged_run_exits_with_a_status_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(BASE))
    arguments = [
        "fit",
        "--config",
        str(tmp_path / "toy.yaml"),
        f"--trainer.default_root_dir={tmp_path / 'runs'}",
        "--model.lr=1e30",
    ]
    assert "the run has diverged" in told(capsys, arguments, status=3)
    assert main([*arguments, "--divergence.action=warn", "--test_after_fit=false"]) == 0
