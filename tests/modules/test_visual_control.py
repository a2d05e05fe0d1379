"""DrQ-v2 in the Trainer: equal to the published update, a loop with its counters, and an activity that monitors read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.optim import Adam

from plasticity_lightning.callbacks import PlasticityMonitor
from plasticity_lightning.control.augmentation import random_shift
from plasticity_lightning.control.replay import Batch
from plasticity_lightning.errors import UserError
from plasticity_lightning.modules import VisualControl
from plasticity_lightning.modules.control_options import EnvironmentOptions, LoopOptions, ReplayOptions
from tests.modules.drqv2_reference import Reference


def agent(
    environment: dict[str, Any] | None = None,
    replay: dict[str, Any] | None = None,
    loop: dict[str, Any] | None = None,
    **options: Any,
) -> VisualControl:
    """An agent small enough to train in a test."""
    small = {"channels": 4, "trunk": 8, "hidden": 16, "optimizer": lambda p: Adam(p, lr=1e-3), **options}
    return VisualControl(
        EnvironmentOptions(**{"mode": "inline", "options": {"episode_steps": 10}, **(environment or {})}),
        ReplayOptions(**{"capacity": 500, "batch_size": 8, "pad": 2, **(replay or {})}),
        LoopOptions(
            **{
                "replay_ratio": 1.0,
                "random_steps": 12,
                "learning_starts": 12,
                "evaluation_episodes": 2,
                "ticks_per_epoch": 30,
                **(loop or {}),
            }
        ),
        **small,
    )


def fit(model: pl.LightningModule, callbacks: list[pl.Callback] | None = None, **options: Any) -> pl.Trainer:
    settings = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 5,
        **options,
    }
    trainer = pl.Trainer(callbacks=callbacks, **settings)
    trainer.fit(model)
    return trainer


class _Updates(pl.Callback):
    """Runs a function in the Trainer's first batch."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.function()


@pytest.mark.parametrize(
    ("precision", "dtype", "bound"), [("64-true", torch.float64, 1e-9), ("32-true", torch.float32, 5e-4)]
)
def test_ten_updates_equal_the_published_algorithm(precision: str, dtype: torch.dtype, bound: float) -> None:
    pl.seed_everything(0)
    torch.set_default_dtype(dtype)
    try:
        model = agent(stddev=0.7, hidden=32, loop={"ticks_per_epoch": 1, "learning_starts": 100})
        reference = Reference(model.encoder, model.actor, model.critic, lr=1e-3)
        rng = torch.Generator().manual_seed(1)

        def run() -> None:
            for _ in range(10):
                b, pad = 16, 2
                obs, next_obs = torch.randint(0, 256, (2, b, *model.observation_shape), generator=rng).to(dtype)
                offsets, next_offsets = torch.randint(0, 2 * pad + 1, (2, b, 2), generator=rng)
                action = torch.rand(b, 2, generator=rng, dtype=dtype) * 2 - 1
                reward, discount = torch.rand(2, b, generator=rng, dtype=dtype)
                # the agent draws first the noise of the next action, then that of the actor's
                noises = torch.Generator().manual_seed(0)
                noises.set_state(model._noise.get_state())
                next_noise, noise = (torch.randn(b, 2, generator=noises, dtype=dtype) for _ in range(2))
                reference.update(
                    obs, offsets, action, reward[:, None], discount[:, None], next_obs, next_offsets, pad, 0.7, noise,
                    next_noise,
                )  # fmt: skip
                shifted = [random_shift(x, o, pad) / 255 - 0.5 for x, o in ((obs, offsets), (next_obs, next_offsets))]
                model.update(Batch(shifted[0], action, reward, discount, shifted[1]))

        fit(model, [_Updates(run)], precision=precision)
    finally:
        torch.set_default_dtype(torch.float32)
    networks = {"encoder": model.encoder, "actor": model.actor, "critic": model.critic, "target": model.target_critic}
    for name, network in networks.items():
        expected = getattr(reference, name)
        for parameter, value in network.named_parameters():
            difference = (value.detach() - expected[parameter].detach()).double()
            if dtype == torch.float64:
                assert difference.abs().max() <= bound, f"{name}.{parameter}"
            assert difference.norm() <= bound * max(expected[parameter].detach().double().norm(), 1e-3), parameter


def test_the_encoder_learns_from_the_critic_only_and_the_target_not_at_all() -> None:
    pl.seed_everything(0)
    model = agent(loop={"ticks_per_epoch": 1})

    def run() -> None:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        model.update_actor(torch.randn(8, model.encoder.features))
        changed = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert changed == {"actor"}
        assert all(p.grad is None for p in model.critic.parameters())
        assert all(p.requires_grad for p in model.critic.parameters())
        assert not any(p.requires_grad for p in model.target_critic.parameters())

    fit(model, [_Updates(run)])


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 1.25])
def test_counters(ratio: float) -> None:
    model = agent(loop={"replay_ratio": ratio})
    trainer = fit(model, max_epochs=2)
    # 60 ticks of one step; learning from step 12 on: 48 steps owe 48 * ratio updates of three optimisers each
    assert model.progress() == {"frame": 60, "step": 60, "update": int(48 * ratio), "episode": 6}
    assert trainer.global_step == 3 * int(48 * ratio)


def test_several_environments_owe_updates_for_each_step() -> None:
    model = agent(environment={"number": 3}, loop={"replay_ratio": 0.5, "ticks_per_epoch": 20})
    fit(model)
    # 60 steps in 20 ticks; ticks 4 to 19 learn: 16 ticks of 3 steps owe 24 updates, the first early by half an update
    assert model.progress() == {"frame": 60, "step": 60, "update": 24, "episode": 6}


def test_environments_in_processes_change_nothing() -> None:
    weights = []
    for mode in ("inline", "process"):
        pl.seed_everything(3)
        model = agent(environment={"mode": mode})
        fit(model)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_published_activity_is_that_of_the_updates_batch_before_the_step() -> None:
    pl.seed_everything(0)
    model = agent(loop={"ticks_per_epoch": 20, "replay_ratio": 1.0})
    seen: list[dict[str, float]] = []
    update = model.update

    def watched(batch: Batch) -> dict[str, torch.Tensor]:
        seen.append(slow_fau(model, batch))
        return update(batch)

    model.update = watched  # type: ignore[method-assign]
    monitor = PlasticityMonitor(["fau"], every=1, figure_every=0)
    published: list[dict[str, float]] = []

    class Read(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            if monitor.latest and len(seen) > len(published):
                published.append({g: float(monitor.latest[f"plasticity/fau/{g}"]) for g in seen[0]})

    fit(model, [monitor, Read()])
    assert len(published) == len(seen) == 8
    for ours, theirs in zip(published, seen, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def slow_fau(model: VisualControl, batch: Batch) -> dict[str, float]:
    """Share of positive activations by the definition: critic and encoder on the batch, the actor on its features,
    which it is given before the critic's step changes anything of it."""
    with torch.no_grad():
        x, active = batch.obs, {"encoder": [0, 0], "actor": [0, 0], "critic": [0, 0]}

        def count(group: str, a: torch.Tensor) -> torch.Tensor:
            active[group][0] += int((a > 0).sum())
            active[group][1] += a.numel()
            return a

        for layer in model.encoder:
            x = count("encoder", layer(x)) if isinstance(layer, torch.nn.ReLU) else layer(x)
        heads = [("actor", model.actor.policy, model.actor.trunk(x))]
        joined = torch.cat([model.critic.trunk(x), batch.action], 1)
        heads += [("critic", model.critic.q1, joined), ("critic", model.critic.q2, joined)]
        for group, head, h in heads:
            for layer in head:
                h = count(group, layer(h)) if isinstance(layer, torch.nn.ReLU) else layer(h)
    return {group: hits / total for group, (hits, total) in active.items()}


def test_augmentation_can_be_switched_at_a_step() -> None:
    model = agent(replay={"augment_from": 15, "augment_until": 20}, loop={"ticks_per_epoch": 25})
    states = []
    update = model.update

    def watched(batch: Batch) -> dict[str, torch.Tensor]:
        states.append((model.steps, model._replay.augment))
        return update(batch)

    model.update = watched  # type: ignore[method-assign]
    fit(model)
    assert [step for step, on in states if on] == [15, 16, 17, 18, 19]


def test_a_frozen_encoder_stays_and_comes_from_a_checkpoint(tmp_path: Any) -> None:
    pl.seed_everything(1)
    source = agent()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "source.ckpt")
    pl.seed_everything(2)
    model = agent(encoder_from=str(tmp_path / "source.ckpt"), freeze_encoder=True)
    trainer = fit(model)
    assert model.updates > 0
    assert len(trainer.optimizers) == 2
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)
    with pytest.raises(UserError, match="no such file"):
        agent(encoder_from="nowhere.ckpt")
    with pytest.raises(UserError, match="no encoder of this shape"):
        agent(encoder_from=str(tmp_path / "source.ckpt"), channels=5)


def test_gradients_are_clipped_for_each_optimizer() -> None:
    norms = []

    class Norms(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            grads = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
            norms.append(float(torch.stack(grads).norm()))

    fit(agent(gradient_clip=1e-3), [Norms()])
    assert len(norms) == 3 * 18
    # hooks of `on_before_optimizer_step` run after the clipping, which manual optimisation does in `update`
    assert max(norms) <= 1e-3 * 1.001


def test_bf16_trains_and_stays_finite() -> None:
    model = agent()
    trainer = fit(model, precision="bf16-mixed")
    assert torch.isfinite(trainer.callback_metrics["train/critic_loss"])
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: agent(environment={"name": "reech"}), "did you mean 'reach'"),
        (lambda: agent(replay={"n_step": 11}), "n_step=11 is longer than an episode"),
        (lambda: agent(loop={"replay_ratio": 0}), "replay_ratio=0"),
        (lambda: agent(loop={"replay_ratio": -1.0}), "replay_ratio=-1"),
        (lambda: agent(environment={"options": {"size": 12}}), "at least 15x15"),
        (lambda: agent(tau=0), "tau=0"),
        (lambda: agent(stddev="linear(1)"), "linear\\(start, end, steps\\)"),
        (lambda: agent(replay={"batch_size": 0}), "batch_size=0"),
    ],
)
def test_bad_input_is_refused_when_the_agent_is_made(make: Callable[[], VisualControl], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        make()


def test_a_replay_larger_than_memory_is_refused_before_the_first_step() -> None:
    with pytest.raises(UserError, match="would fit"):
        fit(agent(replay={"capacity": 10**12}))


def test_evaluation_plays_whole_episodes_with_the_mean_action() -> None:
    model = agent()
    trainer = fit(model, limit_val_batches=1.0, val_check_interval=15)
    assert float(trainer.callback_metrics["eval/episode_steps"]) == 10
    assert model.evaluations == 2
    tested = trainer.test(model, verbose=False)
    again = trainer.test(model, verbose=False)
    assert tested == again
    played = trainer.predict(model)
    assert [len(episode["rewards"]) for episode in played] == [10, 10]
    assert np.isclose(tested[0]["test/return"], sum(e["return"] for e in played) / 2)


@pytest.mark.parametrize(("option", "mode"), [("default", None), ("reduce-overhead", "reduce-overhead")])
def test_the_switch_compiles_every_network_in_place(
    option: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[torch.nn.Module, str | None]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode=None: compiled.append((self, mode)))
    model = agent(loop={"compile": option})
    fit(model)
    assert compiled == [(n, mode) for n in (model.encoder, model.actor, model.critic, model.target_critic)]
    with pytest.raises(ValueError, match="compile='fast' must be one of"):
        LoopOptions(compile="fast")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("option", ["default", "reduce-overhead"])
def test_compiled_updates_equal_eager_ones(option: str) -> None:
    weights = []
    for compile in ("none", option):
        pl.seed_everything(0)
        model = agent(loop={"compile": compile, "ticks_per_epoch": 22})
        fit(model, [PlasticityMonitor(["fau"], every=5, figure_every=0)], accelerator="gpu", devices=1)
        assert model.updates == 10
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]).double().cpu())
    # the bound of float32 rounding over ten updates, as for the published algorithm
    assert (weights[0] - weights[1]).norm() <= 5e-4 * weights[0].norm()


def test_a_test_lies_at_the_frame_that_the_agent_was_trained_to(tmp_path: Any) -> None:
    model = agent()
    frames = fit(model).lightning_module.steps * model.frames_per_step
    assert frames > 1
    logger = CSVLogger(tmp_path)
    pl.Trainer(logger=logger, accelerator="cpu", enable_progress_bar=False, limit_test_batches=2).test(model)
    logger.save()
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["test/return"]] == [frames]


def test_the_logger_gets_each_return_once_and_at_its_frame(tmp_path: Any) -> None:
    logger = CSVLogger(tmp_path)
    fit(agent(), logger=logger, log_every_n_steps=4)
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/return"]] == [10, 20, 30]  # episodes have 10 steps
    assert [int(float(row["step"])) for row in rows if row["replay_ratio"]] == [4, 8, 12, 16, 20, 24, 28]
