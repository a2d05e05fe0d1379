"""`plasticity diagnose` on a small recipe: right numbers, nothing written, mistakes told in one message."""

import pytest
import torch
import yaml
from torch import nn

from plasticity_lightning.cli import main
from plasticity_lightning.measures import Measure
from tests.cli.toys import ToyModule

__all__ = ["NeedsValidation", "ToyReLU", "busiest", "smallest"]


def busiest(activation):
    """Largest activation."""
    return activation.max()


smallest = Measure(torch.Tensor.min, needs="weights", name="smallest_weight", combine="mean")


class ToyReLU(ToyModule):
    """The toy with a nonlinearity."""

    def __init__(self, width: int = 4, lr: float = 0.1, fail_at: int = -1) -> None:
        super().__init__(width, lr, fail_at)
        self.net = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))


class NeedsValidation(ToyReLU):
    """Refuses to be trained without validation."""

    def on_fit_start(self):
        assert self.trainer.limit_val_batches == 1.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose")
    config = {
        "model": {"class_path": "tests.cli.test_diagnose.ToyReLU"},
        "data": {"class_path": "tests.cli.toys.ToyData"},
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(folder / "runs"),
        },
    }
    path = folder / "toy.yaml"
    path.write_text("# A toy\n" + yaml.safe_dump(config))
    assert main(["fit", "--config", str(path), "--test_after_fit", "false"]) == 0
    return str(path), folder / "runs" / "version_0" / "checkpoints" / "last.ckpt"


def rows(text):
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.replace("┃", "│").split("│")]
        if len(cells) > 3:
            found.setdefault(cells[1], []).append(cells[2:-1])
    return found


def test_the_table_shows_the_checkpoint_and_nothing_is_written(trained, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    recipe, checkpoint = trained
    before = sorted(checkpoint.parents[2].rglob("*"))
    arguments = ["diagnose", "--config", recipe, "--ckpt_path", "last", "--measures", "weight_norm,fau,update_ratio"]
    assert main(arguments) == 0
    found = rows(capsys.readouterr().out)
    weight = torch.load(checkpoint, weights_only=True)["state_dict"]["net.0.weight"]
    assert f"{float(weight.norm()):.4g}" in found["net.0"][0]
    assert 0 <= float(found["net.1"][0][0]) <= 1
    assert {"group net", "group network"} <= set(found)
    assert sorted(checkpoint.parents[2].rglob("*")) == before


def test_all_measures_and_the_probe(trained, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    recipe, checkpoint = trained
    assert main(["diagnose", "--config", recipe, "--ckpt_path", str(checkpoint), "--probe", "--probe_size", "4"]) == 0
    out = capsys.readouterr().out
    for word in ("fau", "srank", "grad norm", "spectral norm", "probe loss", "sharpness", "ntk rank", "hessian rank"):
        assert word in out
    # no monitor kept the first weights of this run
    assert "distance from init" not in out


@pytest.fixture(scope="module")
def with_callbacks(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("overlay") / "callbacks.yaml"
    monitor = {"measures": ["fau", "tests.cli.test_diagnose.busiest"], "every": 2}
    callbacks = [
        {"class_path": "PlasticityMonitor", "init_args": monitor},
        {"class_path": "PruneRegrowScheduler", "init_args": {"sparsity": 0.5, "every": 1}},
    ]
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return str(path)


def test_own_measures_by_import_path_and_those_of_the_recipe(trained, with_callbacks, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    recipe, checkpoint = trained
    asked = "fau,tests.cli.test_diagnose.smallest"
    assert main(["diagnose", "--config", recipe, "--ckpt_path", "last", "--measures", asked]) == 0
    weight = torch.load(checkpoint, weights_only=True)["state_dict"]["net.0.weight"]
    assert f"{float(weight.min()):.4g}" in capsys.readouterr().out
    assert main(["diagnose", "--config", recipe, "--config", with_callbacks, "--ckpt_path", "last"]) == 0
    out = capsys.readouterr().out
    assert "busiest" in out
    assert "act on" not in out


def test_coverage_runs_one_batch_of_the_recipe_without_a_checkpoint(trained, with_callbacks, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    recipe, checkpoint = trained
    before = sorted(checkpoint.parents[2].rglob("*"))
    assert main(["diagnose", "--coverage", "--config", recipe, "--config", with_callbacks]) == 0
    out = capsys.readouterr().out
    assert out.count("What the callbacks act on") == 1
    assert "relu: fau, busiest" in out
    assert sorted(checkpoint.parents[2].rglob("*")) == before
    needs = ["--model", "tests.cli.test_diagnose.NeedsValidation"]
    assert main(["diagnose", "--coverage", "--config", recipe, "--config", with_callbacks, *needs]) == 0
    assert main(["diagnose", "--coverage", "--config", recipe]) == 2
    assert "--coverage: none of the recipe's callbacks tells what it covers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--ckpt_path is missing"),
        (["--ckpt_path", "best.pt"], "no such file"),
        (["--ckpt_path", "last", "--measures", "fua"], "'fau'"),
        (["--ckpt_path", "last", "--measures", "saturated"], "bounded"),
        (["--ckpt_path", "last", "--measures", "distance_from_init"], "first weights"),
        (["--ckpt_path", "last", "--measures", "grad_direction"], "one training step on one batch gives no value"),
        (["--ckpt_path", "last", "--measures", "nowhere.mine"], "neither in the list nor an import path"),
        (["--ckpt_path", "last", "--network", "nett"], "no submodule"),
        (["--ckpt_path", "last", "--probe_sise", "3"], "probe_sise"),
    ],
)
def test_a_mistake_gives_one_message_and_status_2(trained, capsys, flags, words):
    assert main(["diagnose", "--config", trained[0], *flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plasticity: error:")]
    assert len(errors) == 1
    assert words in errors[0]
