"""The recipes of visual control and their overlays, end to end through the command line, with tiny networks on `reach`."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasticity_lightning.cli import main
from plasticity_lightning.cli.recipes import list_recipes

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


def fit(folder: Path, *configs: str, **options: object) -> int:
    arguments = ["fit", *(f"--config={config}" for config in configs)]
    arguments += [f"--model.init_args.{name}={value}" for name, value in options.items()]
    trainer = {
        "max_epochs": 1, "val_check_interval": 15, "log_every_n_steps": 5, "enable_progress_bar": "false",
        "enable_model_summary": "false", "default_root_dir": folder, "accelerator": "cpu", "precision": "32-true",
    }  # fmt: skip
    return main([*arguments, *(f"--trainer.{name}={value}" for name, value in trainer.items())])


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
