"""DrQ(eps) on the loop of DrQ-v2: one update by hand, exploration, and the counters of the loop."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.optim import Adam

from plasticity_lightning.callbacks import PlasticityMonitor
from plasticity_lightning.control.replay import Batch
from plasticity_lightning.errors import UserError
from plasticity_lightning.modules import DiscreteControl, VisualControl
from plasticity_lightning.modules.control_options import EnvironmentOptions, LoopOptions, ReplayOptions
from tests.modules.test_visual_control import _Updates, fit

COUNTER = "tests.control.environments.toys:Counter"


def agent(loop: dict[str, Any] | None = None, **options: Any) -> DiscreteControl:
    settings = {"random_steps": 10, "learning_starts": 10, "replay_ratio": 1.0, "ticks_per_epoch": 40, **(loop or {})}
    return DiscreteControl(
        EnvironmentOptions(COUNTER, {"discrete": True}, mode="inline", stack=2, padding="zero"),
        ReplayOptions(capacity=200, batch_size=8, n_step=2, pad=1, tail="short"),
        LoopOptions(**settings, evaluation_episodes=2),
        **{"width": 1 / 16, "hidden": 8, "optimizer": lambda p: Adam(p, lr=1e-2, eps=1.5e-4), **options},
    )


def test_one_update_by_its_description() -> None:
    pl.seed_everything(0)
    model = agent(intensity=0.1)

    def run() -> None:
        obs, next_obs = torch.randint(0, 256, (2, 8, 2, 2, 2), dtype=torch.uint8)
        action, reward, discount = torch.randint(0, 3, (8,)), torch.randn(8), torch.rand(8)
        discount[:2] = 0
        model.target.load_state_dict(agent().network.state_dict())  # other weights than the network's
        noises = torch.Generator()
        noises.set_state(model._brightness.get_state())
        factors = [1 + 0.1 * torch.randn(8, generator=noises).clamp(-2, 2)[:, None, None, None] for _ in range(2)]
        x, y = obs / 255 * factors[0], next_obs / 255 * factors[1]
        with torch.no_grad():
            best = model.network(y).argmax(1)
            target = reward + discount * model.target(y)[torch.arange(8), best]
        error = model.network(x)[torch.arange(8), action] - target
        loss = torch.where(error.abs() <= 1, 0.5 * error**2, error.abs() - 0.5).mean()
        gradients = torch.autograd.grad(loss, list(model.network.parameters()))
        before = [p.detach().clone() for p in model.network.parameters()]
        logs = model.update(Batch(obs, action, reward, discount, next_obs))
        assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)
        for p, old, g in zip(model.network.parameters(), before, gradients, strict=True):
            # the first step of Adam, lr * g / (|g| + eps), which magnifies rounding by lr / eps = 67
            assert torch.allclose(p, old - 1e-2 * g / (g.abs() + 1.5e-4), atol=1e-5)
        copied = zip(model.target.parameters(), model.network.parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in copied)

    fit(model, [_Updates(run)], limit_train_batches=1)


def test_counters_and_measures_on_the_shared_loop() -> None:
    model = agent()
    monitor = PlasticityMonitor(["fau"], every=1, figure_every=0)
    trainer = fit(model, [monitor])
    assert model.progress()["update"] == 30
    assert trainer.global_step == 30
    assert set(monitor.latest) == {"plasticity/fau/encoder", "plasticity/fau/head", "plasticity/fau/network"}


def test_epsilon_falls_from_the_start_of_learning() -> None:
    pl.seed_everything(0)
    model = agent(epsilon="linear(1, 0, 10)")
    seen: list[tuple[int, int]] = []

    def run() -> None:
        q = model.network.advantage
        q.weight.data.zero_()
        q.bias.data.copy_(torch.tensor([0.0, 9.0, 0.0]))  # the best action is 1
        for steps in (0, 10, 15, 20):
            model.steps = steps
            actions = model.act(torch.zeros(4000, 2, 2, 2, dtype=torch.uint8), explore=True)
            seen.append((steps, int((actions == 1).sum())))
        model.steps = 0

    fit(model, [_Updates(run)], limit_train_batches=1)
    # epsilon 1, 1, 0.5, 0: shares of action 1 are 1/3, 1/3, 2/3, 1; standard deviation of a count about 30
    for (_, count), expected in zip(seen, (4000 / 3, 4000 / 3, 8000 / 3, 4000), strict=True):
        assert abs(count - expected) < 120


def test_evaluation_does_not_touch_the_training_draws() -> None:
    weights = []
    for every in (0, 5):
        pl.seed_everything(0)
        model = agent(evaluation_epsilon=0.5)
        fit(model, limit_val_batches=float(every > 0), val_check_interval=every or 1.0)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_kind_of_actions_must_fit_the_agent() -> None:
    with pytest.raises(UserError, match="train it with VisualControl"):
        DiscreteControl(EnvironmentOptions("reach", mode="inline"))
    with pytest.raises(UserError, match="train it with DiscreteControl"):
        VisualControl(EnvironmentOptions(COUNTER, {"discrete": True}, mode="inline"))
    with pytest.raises(ValueError, match="tau=0"):
        agent(tau=0)
