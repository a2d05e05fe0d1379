"""Changed settings on resume: each is told, the checkpoint's are kept, `--override` takes the new ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from plasticity_lightning.cli import main
from plasticity_lightning.cli.resume_settings import compare_settings, merged_settings

SPARSE = {
    "class_path": "PruneRegrowScheduler",
    "init_args": {"method": "gmp", "sparsity": 0.5, "every": 2, "summary": False},
}


def recipe(folder: Path, callbacks: list | None = None, max_epochs: int = 1) -> list[str]:
    trainer = {"max_epochs": max_epochs, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False,
               "default_root_dir": str(folder / "runs"), "logger": False, "callbacks": callbacks}  # fmt: skip
    config = {
        "model": {"class_path": "tests.cli.toys.ToyModule"},
        "data": {"class_path": "tests.cli.toys.ToyData"},
        "trainer": trainer,
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["fit", "--config", str(path), "--test_after_fit=false"]


def last(folder: Path) -> dict:
    return torch.load(folder / "runs/version_0/checkpoints/last.ckpt", weights_only=True)


def test_each_difference_is_told_and_the_run_goes_on_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(recipe(tmp_path, [SPARSE])) == 0
    (tmp_path / "whole").mkdir()
    assert main(recipe(tmp_path / "whole", [SPARSE], max_epochs=2)) == 0
    changed = {**SPARSE, "init_args": {**SPARSE["init_args"], "sparsity": 0.9, "method": "granet"}}
    command = recipe(tmp_path, [changed], max_epochs=2)
    capsys.readouterr()
    flags = ["--model.lr=0.5", "--data.batch_size=8", "--seed_everything=7", "--ckpt_path=last"]
    assert main([*command, *flags]) == 0
    told = capsys.readouterr().err
    for line in (
        "trainer.callbacks.PruneRegrowScheduler.sparsity is 0.5 as in the checkpoint, not 0.9",
        "trainer.callbacks.PruneRegrowScheduler.method is 'gmp' as in the checkpoint, not 'granet'",
        "model.lr is 0.1 as in the checkpoint, not 0.5",
        "data.batch_size is 4 as in the checkpoint, not 8",
        "seed_everything is 1 as in the checkpoint, not 7",
        "--override",
    ):
        assert line in told
    assert "max_epochs is" not in told  # how long is the new command's
    a, b = last(tmp_path), last(tmp_path / "whole")
    assert a["global_step"] == b["global_step"] == 16
    assert all(torch.isfinite(value).all() for value in a["state_dict"].values())
    assert a["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1


def test_override_takes_the_new_settings_also_where_a_state_would_bring_the_old(tmp_path: Path, capsys) -> None:
    assert main(recipe(tmp_path)) == 0
    assert main([*recipe(tmp_path, max_epochs=2), "--model.lr=0.05", "--ckpt_path=last", "--override"]) == 0
    assert "as in the checkpoint" not in capsys.readouterr().err
    assert last(tmp_path)["optimizer_states"][0]["param_groups"][0]["lr"] == 0.05


def test_a_sparse_run_without_its_scheduler_is_refused_unless_overridden(tmp_path: Path, capsys) -> None:
    assert main(recipe(tmp_path, [SPARSE])) == 0
    bare = [*recipe(tmp_path, max_epochs=2), "--ckpt_path=last"]
    assert main(bare) == 2
    assert "a run with PruneRegrowScheduler, which the command lacks" in capsys.readouterr().err
    assert main([*bare, "--override"]) == 0


def test_what_is_free_and_what_only_one_version_knows_is_no_difference() -> None:
    saved = (
        "{model: {class_path: A, init_args: {width: 3, threads: 2, old: 1}}, trainer: {max_epochs: 3, callbacks: null}}"
    )
    given = {"model": {"class_path": "A", "init_args": {"width": 4, "threads": 8, "new": 1}},
             "trainer": {"max_epochs": 9, "callbacks": {"class_path": "x.B", "init_args": {"every": 2}}}}  # fmt: skip
    found = [(d.key, d.saved, d.given) for d in compare_settings(saved, given)]
    assert found == [("model.width", 3, 4), ("trainer.callbacks.B.class_path", None, "x.B")]


def test_what_says_where_and_how_long_is_the_new_commands_at_any_depth() -> None:
    def config(mode: str, threads: int, size: int, frames: int) -> dict:
        replay = {"threads": threads, "batch_size": size}
        stop = {"class_path": "a.StopAfter", "init_args": {"frames": frames}}
        return {"model": {"class_path": "A", "init_args": {"environment": {"mode": mode}, "replay": replay}},
                "trainer": {"callbacks": [{"class_path": "a.B"}, stop]}}  # fmt: skip

    saved, given = yaml.safe_dump(config("inline", 1, 8, 100)), config("process", 4, 16, 200)
    assert [d.key for d in compare_settings(saved, given)] == ["model.replay.batch_size"]
    kept = merged_settings(saved, given)
    assert kept["model"] == config("process", 4, 8, 0)["model"]
    assert kept["trainer"]["callbacks"][0]["init_args"] == {"frames": 200}
    assert [c["class_path"] for c in kept["trainer"]["callbacks"]] == ["a.StopAfter", "a.B"]
