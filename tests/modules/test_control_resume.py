"""A run of visual control that was cut and resumed equals the uninterrupted one: weights, replay, environments, curves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from plasticity_lightning.callbacks import AdaptiveReplayRatio, PlasticityMonitor
from plasticity_lightning.errors import UserError
from plasticity_lightning.modules import VisualControl
from plasticity_lightning.runtime import AtomicCheckpoint, RNGState
from tests.modules.test_visual_control import agent, fit


class Curves(pl.Callback):
    """Everything that is published, tick by tick, from a tick on."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: VisualControl, *_: Any) -> None:
        wanted = {k: float(v) for k, v in trainer.callback_metrics.items() if "per_second" not in k}
        self.rows[pl_module.steps] = wanted


class Cut(pl.Callback):
    """Ends the process of a run as a kill would: an exception that nobody handles, at a tick."""

    def __init__(self, tick: int, where: str) -> None:
        self.tick, self.where = tick, where

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: VisualControl, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 != self.tick:
            return
        if self.where == "step":
            store = pl_module._store
            pl_module._store = lambda steps: (store(steps), self.end())  # type: ignore[method-assign, assignment]
        elif self.where == "update":
            pl_module.update_actor = lambda encoded: self.end()  # type: ignore[method-assign]
        elif self.where == "evaluation":
            pl_module.play = self.end  # type: ignore[method-assign, assignment]
        else:
            append = pl_module._replay.append_to
            # the replay is appended, the checkpoint is not written
            pl_module._replay.append_to = lambda folder: (append(folder), self.end())  # type: ignore[method-assign, assignment]

    def end(self) -> Any:
        raise KeyboardInterrupt


def run(
    folder: Path, resume: bool = False, cut: Cut | None = None, mode: str = "inline", **settings: Any
) -> tuple[VisualControl, Curves]:
    pl.seed_everything(5 if resume else 3)
    model = agent({"mode": mode}, {"capacity": 45}, {"ticks_per_epoch": 30, "replay_ratio": 0.7}, stddev=0.5)
    curves = Curves()
    saver = AtomicCheckpoint(str(folder), every_n_batches=7, every_n_epochs=None, every_seconds=None)
    # a kill leaves no checkpoint of an exception
    saver.on_exception = lambda *_: None  # type: ignore[method-assign]
    rule = AdaptiveReplayRatio(ladder=[0.7, 1.3], check_every=2, raise_when="change < 1")
    monitor = PlasticityMonitor(["fau"], every=1, figure_every=0)
    callbacks = [RNGState(), monitor, rule, curves, *([cut] if cut else []), saver]
    options: dict[str, Any] = {
        "max_epochs": 2,
        "limit_val_batches": 1.0,
        "val_check_interval": 10,
        "log_every_n_steps": 1,
    }
    trainer = pl.Trainer(
        callbacks=callbacks, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        num_sanity_val_steps=0, check_val_every_n_epoch=None, **options, **settings,
    )  # fmt: skip
    try:
        trainer.fit(model, ckpt_path=str(folder / "last.ckpt") if resume else None)
    except (KeyboardInterrupt, SystemExit):
        assert cut is not None
    return model, curves


def assert_equal(ours: tuple[VisualControl, Curves], theirs: tuple[VisualControl, Curves]) -> None:
    (a, rows), (b, expected) = ours, theirs
    assert a.progress() == b.progress()
    assert a.credit.state_dict() == b.credit.state_dict()
    for name, value in b.state_dict().items():
        assert torch.equal(a.state_dict()[name], value), name
    for ring in ("frames", "action", "reward", "discount"):
        ours_ring, theirs_ring = (getattr(m._replay._ring, ring) for m in (a, b))
        assert np.array_equal(ours_ring, theirs_ring), ring
    assert str(a._final_states) == str(b._final_states)
    assert rows.rows
    for step, values in rows.rows.items():
        # metrics that only the other run has published so far are those from before the cut
        assert values == pytest.approx({k: expected.rows[step][k] for k in values}, rel=0, abs=0, nan_ok=True), step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisualControl, Curves]:
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("tick", "where"), [(25, "step"), (33, "update"), (28, "checkpoint"), (40, "evaluation")])
def test_a_killed_run_resumes_to_the_bit(
    whole: tuple[VisualControl, Curves], tmp_path: Path, tick: int, where: str
) -> None:
    run(tmp_path, cut=Cut(tick, where))
    assert_equal(run(tmp_path, resume=True), whole)


def test_with_deterministic_two_runs_from_one_seed_are_equal_to_the_bit_and_a_killed_one_too(
    whole: tuple[VisualControl, Curves], tmp_path: Path
) -> None:
    try:
        again = run(tmp_path / "again", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        run(tmp_path / "cut", cut=Cut(33, "update"), deterministic=True)
        resumed = run(tmp_path / "cut", resume=True, deterministic=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_equal(resumed, again)
    assert_equal(again, whole)  # on a CPU the flag changes nothing


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_twenty_random_moments(whole: tuple[VisualControl, Curves], tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    where = ("step", "update", "checkpoint", "evaluation")[seed % 4]
    tick = int(generator.integers(9, 59))
    tick = min(tick, 50) if where == "evaluation" else tick  # the next one after tick 50 is when the run has ended
    first = run(tmp_path, cut=Cut(tick, where), mode="process")[0]
    assert first.steps < 60
    assert_equal(run(tmp_path, resume=True, mode="process"), whole)


def test_a_replay_that_moved_with_its_checkpoint_is_found(whole: tuple[VisualControl, Curves], tmp_path: Path) -> None:
    run(tmp_path / "old", cut=Cut(25, "step"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert_equal(run(tmp_path / "new", resume=True), whole)


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, cut=Cut(25, "step"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("plasticity_lightning.control.replay.log._write", full)
    with pytest.raises(UserError, match="make room there and resume"):
        run(tmp_path, resume=True)
    monkeypatch.undo()
    model, _ = run(tmp_path, resume=True)
    assert model.steps == 60


def test_without_content_the_replay_is_filled_anew_before_learning(tmp_path: Path) -> None:
    def small() -> VisualControl:
        return agent(replay={"checkpoint": False}, loop={"ticks_per_epoch": 20})

    trainer = fit(small())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "replay").exists()
    model = small()
    fit_again = pl.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                           enable_model_summary=False, accelerator="cpu", limit_val_batches=0)  # fmt: skip
    fit_again.fit(model, ckpt_path=tmp_path / "a.ckpt")
    assert model.progress()["update"] == 8 + 8  # 20 steps each, of which 12 fill the replay


def test_a_checkpoint_plays_without_its_replay(tmp_path: Path) -> None:
    run(tmp_path, cut=Cut(25, "step"))
    shutil.rmtree(tmp_path / "replay")
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    tested = trainer.test(agent(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert tested[0]["test/episode_steps"] == 10


def test_environments_without_a_state_resume_with_new_episodes(tmp_path: Path) -> None:
    def model() -> VisualControl:
        return agent({"name": "tests.control.environments.toys:Unsaved"}, loop={"ticks_per_epoch": 20})

    trainer = fit(model(), default_root_dir=tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = model()
    fit_again = pl.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                           enable_model_summary=False, accelerator="cpu", limit_val_batches=0,
                           default_root_dir=tmp_path)  # fmt: skip
    fit_again.fit(again, ckpt_path=tmp_path / "a.ckpt")
    assert again.progress()["step"] == 40
    assert again.progress()["update"] == 28  # the replay was kept


def test_a_checkpoint_alone_rebuilds_the_agent(tmp_path: Path) -> None:
    run(tmp_path, cut=Cut(25, "step"))
    model = VisualControl.load_from_checkpoint(tmp_path / "last.ckpt")
    assert model.replay_options.capacity == 45
    assert model.loop_options.replay_ratio == 0.7
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize("failure", ["nan", "raise"])
def test_an_environment_that_fails_leaves_the_last_checkpoint_whole(tmp_path: Path, failure: str) -> None:
    (tmp_path / "foreign.ckpt").write_text("not a checkpoint")  # must not keep the run from saving

    def model(failure: str) -> VisualControl:
        options = {"failure": failure, "after": 25, "size": 16}
        return agent({"name": "tests.modules.failing:FailingReach", "options": options}, loop={"ticks_per_epoch": 40})

    def trainer() -> pl.Trainer:
        saver = AtomicCheckpoint(str(tmp_path), every_n_batches=10, every_n_epochs=None, every_seconds=None)
        return pl.Trainer(max_epochs=1, callbacks=[RNGState(), saver], logger=False, enable_progress_bar=False,
                          enable_model_summary=False, accelerator="cpu", limit_val_batches=0)  # fmt: skip

    with pytest.raises(UserError, match=r"NaN|nan|gone wrong"):
        trainer().fit(model(failure))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["control"][0]
    assert state["steps"] == 20
    resumed = model("")
    trainer().fit(resumed, ckpt_path=str(tmp_path / "last.ckpt"))
    assert resumed.steps == 40
