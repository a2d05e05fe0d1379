"""A disk that another program fills in the middle of a run: one message, status 2, no temporaries, and a checkpoint to go on from."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml

from plasticity_lightning.cli import main
from plasticity_lightning.runtime.checkpoint_file import read_checkpoint
from tests.cli.test_first_sight import SHORT

FILLER = "filler"


class Fill(pl.Callback):
    """Nothing more can be written after a batch."""

    def __init__(self, disk: str, batch: int) -> None:
        self.disk, self.batch = Path(disk), batch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 != self.batch:
            return
        if not self.disk.is_mount():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return
        with contextlib.suppress(OSError), (self.disk / FILLER).open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))


class Talk(pl.Callback):
    """Writes more into the logs than their buffers hold."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        for i in range(20):
            trainer.logger.experiment.add_text("talk", "x" * 2000, i)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB, or, where one may not be mounted, a folder; a limit on the size of files stands in for its end."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "none", tmp_path], capture_output=True
    ).returncode
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    if mounted:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def make_room(disk: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    (disk / FILLER).unlink(missing_ok=True)


def fill(disk: Path, batch: int) -> dict[str, Any]:
    return {"class_path": f"{__name__}.Fill", "init_args": {"disk": str(disk), "batch": batch}}


def toy(disk: Path, callbacks: list[dict[str, Any]], **trainer: Any) -> list[str]:
    content = {
        "model": {"class_path": "tests.cli.toys.ToyModule"},
        "data": {"class_path": "tests.cli.toys.ToyData"},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "callbacks": callbacks, **trainer},
        "checkpoint": {"every_n_batches": 2},
    }
    recipe = disk / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    return ["--config", str(recipe)]


def control(disk: Path, batch: int) -> list[str]:
    overlay = disk / "overlay.yaml"
    stop = {"class_path": "StopAfter", "init_args": {"steps": 60}}
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [stop, fill(disk, batch)]}}))
    short = [flag for flag in SHORT["visual_control/quickstart"] if "max_epochs" not in flag]
    return [
        "--config",
        "visual_control/quickstart",
        "--config",
        str(overlay),
        *short,
        "--checkpoint.every_n_batches=10",
    ]


def failed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    assert main(["fit", *arguments, *quiet]) == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out
    errors = [line for line in told.err.splitlines() if line.startswith("plasticity: error:")]
    assert len(errors) == 1, errors
    return errors[0]


@pytest.mark.parametrize(
    ("kind", "batch", "good", "words"),
    [("toy", 5, 4, "cannot write"), ("control", 35, 30, "the replay cannot be written")],
)
def test_a_full_disk_ends_the_run_with_its_last_checkpoint_whole(
    kind: str, batch: int, good: int, words: str, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = toy(disk, [fill(disk, batch)]) if kind == "toy" else control(disk, batch)
    arguments += [f"--trainer.default_root_dir={disk / 'runs'}"]
    message = failed(arguments, capsys)
    assert words in message
    assert "make room" in message
    assert list(disk.rglob("*.tmp")) == []
    checkpoint = disk / "runs/version_0/checkpoints/last.ckpt"
    assert read_checkpoint(checkpoint)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == good
    make_room(disk)
    for file in disk.glob("*.yaml"):
        file.write_text(file.read_text().replace(f"batch: {batch}", "batch: 0"))
    assert main(["fit", *arguments, "--ckpt_path=last", "--override", "--trainer.enable_progress_bar=false"]) == 0


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_logs_alone_can_fill_it(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = {"class_path": f"{__name__}.Talk"}
    arguments = toy(disk, [talk, fill(disk, 3)], enable_checkpointing=False)
    assert "disk is full" in failed([*arguments, f"--trainer.default_root_dir={disk / 'runs'}"], capsys)
