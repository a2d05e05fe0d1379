"""`plasticity export` on a small recipe: a file, tables, and mistakes told in one message with status 2."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from plasticity_lightning.cli import main
from plasticity_lightning.studies.export import load_exported
from tests.cli.toys import ToyModule

__all__ = ["SparseToy", "TwoParts"]


class SparseToy(ToyModule):
    """The toy, wide enough to be sparse."""

    def __init__(self, width: int = 16, lr: float = 0.1, fail_at: int = -1) -> None:
        super().__init__(width, lr, fail_at)


class TwoParts(SparseToy):
    """Weights in two parts."""

    def __init__(self, width: int = 16, lr: float = 0.1, fail_at: int = -1) -> None:
        super().__init__(width, lr, fail_at)
        self.net, self.head = self.net[0], nn.Linear(width, 1)

    def training_step(self, batch, batch_idx):
        return (self.head(self.net(batch[0])) - batch[1]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    test_step = validation_step


def train(folder: Path, kind: str, method: str) -> tuple[str, str]:
    """(recipe file, checkpoint) of a short run."""
    callback = {"class_path": "PruneRegrowScheduler", "init_args": {"method": method, "every": 2, "summary": False}}
    callback["init_args"] |= {} if method == "dense" else {"sparsity": 0.6}
    config = {
        "model": {"class_path": f"tests.cli.test_export.{kind}"},
        "data": {"class_path": "tests.cli.toys.ToyData"},
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callback,
            "default_root_dir": str(folder / "runs"),
        },
    }
    path = folder / "toy.yaml"
    path.write_text("# A toy\n" + yaml.safe_dump(config))
    assert main(["fit", "--config", str(path), "--test_after_fit", "false"]) == 0
    return str(path), str(folder / "runs" / "version_0" / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    return train(tmp_path_factory.mktemp("export"), "SparseToy", "srigl")


@pytest.mark.parametrize("format", ["csr", "condensed", "dense"])
def test_a_checkpoint_becomes_a_file_and_two_tables(format, sparse, tmp_path, capsys, recwarn):
    recipe, checkpoint = sparse
    output = tmp_path / "deep" / "net.pt"
    arguments = ["--config", recipe, "--ckpt_path", checkpoint, "--format", format, "--output", str(output)]
    assert main(["export", *arguments, "--batch_sizes", "1,3", "--seconds", "0.001"]) == 0
    printed = capsys.readouterr().out
    assert not [w for w in recwarn if "callbacks used to create" in str(w.message)]
    assert "times smaller than dense" in printed
    assert "faster by" in printed
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    net = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 1)).eval()
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
    x = torch.randn(7, 3)
    with torch.no_grad():
        torch.testing.assert_close(load_exported(output)(x), net(x), atol=1e-5, rtol=1e-5)
    assert not (tmp_path / "lightning_logs").exists()
    assert [path.name for path in Path(recipe).parent.joinpath("runs").iterdir()] == ["version_0"]  # no run was opened


def test_last_is_the_newest_runs_checkpoint_and_seconds_0_measures_nothing(sparse, tmp_path, capsys):
    recipe, _ = sparse
    output = tmp_path / "net.pt"
    assert (
        main(["export", "--config", recipe, "--ckpt_path", "last", "--format=csr", f"--output={output}", "--seconds=0"])
        == 0
    )
    assert output.is_file()
    assert "faster by" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--format": None}, "--format is missing; one of csr, condensed, 2:4, dense"),
        ({"--format": "condense"}, "format must be one of csr, condensed, 2:4, dense, got 'condense'; did you mean 'condensed'"),
        ({"--output": None}, "--output is missing"),
        ({"--output": "."}, "--output . is a folder"),
        ({"--output": "/proc/nowhere/net.pt"}, "cannot write /proc/nowhere/net.pt"),
        ({"--ckpt_path": None}, "--ckpt_path is missing"),
        ({"--ckpt_path": "nowhere.ckpt"}, "nowhere.ckpt: no such file"),
        ({"--format": "2:4"}, "no layer can be 2:4: 0 (its inputs do not divide into fours)"),
        ({"--min_sparsity": "0.999"}, "the network is dense"),
        ({"--min_sparsity": "7"}, "min_sparsity=7.0 must lie in [0, 1]"),
        ({"--network": "nett"}, "no such part; parts: net, net.0"),
        ({"--batches": "0"}, "--batches 0 must be at least 1"),
        ({"--batch_sizes": "0"}, "must be numbers of at least 1"),
        ({"--seconds": "-1"}, "--seconds -1.0 must not be negative"),
        ({"--project": ""}, "project=True makes weights 2:4"),
    ],
)  # fmt: skip
def test_mistakes_are_told(change, message, sparse, tmp_path, capsys):
    recipe, checkpoint = sparse
    output = tmp_path / "net.pt"
    given = {
        "--config": recipe,
        "--ckpt_path": checkpoint,
        "--format": "csr",
        "--output": str(output),
        "--seconds": "0",
    }
    arguments = [x for key, value in (given | change).items() if value is not None for x in (key, value) if x]
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not output.exists()


def test_a_dense_model_is_refused(tmp_path, capsys):
    recipe, checkpoint = train(tmp_path, "SparseToy", "dense")
    arguments = [
        "--config",
        recipe,
        "--ckpt_path",
        checkpoint,
        "--output",
        str(tmp_path / "net.pt"),
        "--format",
        "condensed",
    ]
    assert main(["export", *arguments]) == 2
    assert "--format condensed: the network is dense: no Linear or convolution has 50% zeros" in capsys.readouterr().err


def test_weights_in_two_parts_need_a_name(tmp_path, capsys):
    recipe, checkpoint = train(tmp_path, "TwoParts", "static_random")
    arguments = [
        "--config",
        recipe,
        "--ckpt_path",
        checkpoint,
        "--output",
        str(tmp_path / "net.pt"),
        "--format",
        "csr",
        "--seconds=0",
    ]
    assert main(["export", *arguments]) == 2
    assert "the weights are in head, net: say by --network which part to export" in capsys.readouterr().err
    assert main(["export", *arguments, "--network", "net"]) == 0


def test_help_names_the_options(capsys):
    assert main(["export", "--help"]) == 0
    printed = capsys.readouterr().out
    for option in ("--format", "--output", "--network", "--project", "--min_sparsity", "--batch_sizes"):
        assert option in printed
