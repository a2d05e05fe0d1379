"""The recipes of visual control and their overlays, end to end through the command line, with tiny networks on `reach`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from plasticity_lightning.cli import main
from plasticity_lightning.cli.recipes import list_recipes
from plasticity_lightning.control.environments.dm_control_suite import suite_tasks

FAMILY = [name for name in list_recipes() if name.startswith("visual_control/")]
RECIPES = [name for name in FAMILY if "overlays" not in name]
OVERLAYS = [name for name in FAMILY if "overlays" in name]
TINY = {
    "replay.capacity": 400, "replay.batch_size": 4, "loop.random_steps": 10, "loop.learning_starts": 10,
    "loop.ticks_per_epoch": 30, "loop.evaluation_episodes": 1,
}  # fmt: skip
REACH = {
    "environment": '{"name": "reach", "mode": "inline", "options": {"size": 16, "episode_steps": 10}}',
    "channels": 4, "trunk": 4, "hidden": 8,
}  # fmt: skip
TINY_ATARI = {
    "width": 0.0625, "hidden": 8, "environment.mode": "inline", "replay.n_step": 2,
    "environment.options": '{"episode_steps": 12}',  # a game of 12 steps
}  # fmt: skip


def fit(folder: Path, *configs: str, extra: Sequence[str] = (), **options: object) -> int:
    arguments = ["fit", *(f"--config={config}" for config in configs)]
    arguments += [f"--model.init_args.{name}={value}" for name, value in options.items()]
    trainer = {
        "max_epochs": 1, "val_check_interval": 15, "log_every_n_steps": 5, "enable_progress_bar": "false",
        "enable_model_summary": "false", "default_root_dir": folder, "accelerator": "cpu", "precision": "32-true",
    }  # fmt: skip
    return main([*arguments, *(f"--trainer.{name}={value}" for name, value in trainer.items()), *extra])


def test_quickstart_trains_plays_and_leaves_a_video(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fit(tmp_path, "visual_control/quickstart", **TINY) == 0
    output = capsys.readouterr().out
    assert "test/return" in output
    run = tmp_path / "version_0"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert list((run / "checkpoints" / "replay").rglob("*.frames"))
    assert sorted(path.name for path in (run / "videos").iterdir()) == [
        "eval_000000015.gif",
        "eval_000000030.gif",
        "test_000000030.gif",
    ]
    arguments = ["--config=visual_control/quickstart", f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"]
    arguments += [f"--model.init_args.{name}={value}" for name, value in TINY.items()]
    assert main(["test", *arguments]) == 0
    assert "test/return" in capsys.readouterr().out
    assert main(["predict", *arguments]) == 0


# a recipe's overlays are tried on the quickstart, those of discrete control on the Atari recipe
ON_ATARI = {"visual_control/overlays/adaptive_atari"}


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name not in ON_ATARI])
def test_overlay_merges_and_trains(overlay: str, tmp_path: Path) -> None:
    assert fit(tmp_path, "visual_control/quickstart", overlay, **TINY, **REACH) == 0
    assert (tmp_path / "version_0" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("overlay", [None, "visual_control/overlays/rr_05", *sorted(ON_ATARI)])
def test_atari_trains_static_and_adaptive(overlay: str | None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("ale_py", reason="the games come with the extra atari")
    configs = ["visual_control/atari100k", *([overlay] if overlay else [])]
    assert fit(tmp_path, *configs, **{**TINY, **TINY_ATARI}) == 0
    assert "test/return" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["visual_control/drqv2", "visual_control/cartpole_swingup_small"])
def test_recipe_trains_on_the_small_task(recipe: str, tmp_path: Path) -> None:
    assert fit(tmp_path, recipe, **TINY, **REACH) == 0


def test_a_longer_run_and_another_ratio_count_on_resume_and_another_replay_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def resumed(frames: int, *more: str) -> tuple[int, Any]:
        stop = f"--trainer.callbacks=[{{class_path: StopAfter, init_args: {{frames: {frames}}}}}]"
        extra = [stop, "--test_after_fit=false", "--trainer.max_epochs=-1", "--trainer.limit_val_batches=0", *more]
        status = fit(tmp_path, "visual_control/quickstart", extra=extra, **{**TINY, **REACH})
        path = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
        return status, torch.load(path, weights_only=True)["control"][0]

    assert resumed(12)[1]["steps"] == 12
    _, state = resumed(14, "--ckpt_path=last", "--model.init_args.loop.replay_ratio=3")
    assert (state["steps"], state["credit"]["ratio"]) == (14, (2, 1))
    assert "model.loop.replay_ratio is 2.0 as in the checkpoint, not 3.0" in capsys.readouterr().err
    _, state = resumed(16, "--ckpt_path=last", "--model.init_args.loop.replay_ratio=3", "--override")
    assert (state["steps"], state["credit"]["ratio"]) == (16, (3, 1))
    assert resumed(18, "--ckpt_path=last", "--model.init_args.replay.capacity=500", "--override")[0] == 2
    assert "the checkpoint's replay has capacity=400, this one capacity=500" in capsys.readouterr().err


def merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    """What a second `--config` does to the first one's values."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


TASKS = [name for name in RECIPES if "/tasks/" in name]


@pytest.mark.parametrize("task", TASKS)
def test_task_merges_and_trains(task: str, tmp_path: Path) -> None:
    # with the small task in the place of its own: what is tried are the task's settings
    short = ["--test_after_fit=false", "--trainer.limit_val_batches=0"]
    assert fit(tmp_path, "visual_control/drqv2", task, extra=short, **TINY, **REACH) == 0


@pytest.mark.rendering
@pytest.mark.parametrize("task", TASKS)
def test_task_names_a_task_of_the_suite_and_the_published_settings(task: str) -> None:
    published = {
        "walker_run": (3001, 1, 512, 1e-4, 50, "500000"),
        "quadruped_run": (3001, 3, 256, 1e-4, 50, "500000"),
        "cartpole_swingup": (1001, 3, 256, 1e-4, 50, "100000"),
        "humanoid_run": (30100, 3, 256, 8e-5, 100, "2000000"),
    }
    config: dict[str, Any] = {}
    for name in ("visual_control/drqv2", task):
        merge(config, yaml.safe_load(list_recipes()[name][0].read_text()))
    model = config["model"]["init_args"]
    assert model["environment"]["name"] in suite_tasks()
    name = task.rpartition("/")[2]
    settings = (
        config["trainer"]["max_epochs"], model["replay"]["n_step"], model["replay"]["batch_size"],
        model["optimizer"]["init_args"]["lr"], model["trunk"], re.search(r"(\d+)\)$", model["stddev"])[1],
    )  # fmt: skip
    assert settings == published.get(name, settings)
    assert (settings[1], settings[2]) == ((1, 512) if name.startswith("walker_") else (3, 256))
    assert model["replay"]["capacity"] == (100_000 if name == "quadruped_run" else 1_000_000)


@pytest.mark.rendering
def test_a_simulated_task_is_saved_and_resumed(tmp_path: Path) -> None:
    small = {"channels": 4, "trunk": 4, "hidden": 8}
    recipe = "visual_control/cartpole_swingup_small"
    options = {**TINY, **small, "environment.mode": "inline"}
    without_tests = ["--test_after_fit=false", "--trainer.limit_val_batches=0"]
    assert fit(tmp_path, recipe, extra=without_tests, **options) == 0
    assert fit(tmp_path, recipe, extra=[*without_tests, "--ckpt_path=last", "--trainer.max_epochs=2"], **options) == 0
    state = torch.load(tmp_path / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)["control"][0]
    assert (state["steps"], state["updates"]) == (60, 100)  # two updates a step, from the tenth on
