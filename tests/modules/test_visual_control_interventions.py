"""The package's callbacks act on the agent as they are: layers of the overlays' names, target network included."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from plasticity_lightning.callbacks import (
    L2Init,
    ModuleTransform,
    PlasticityInjection,
    PlasticityMonitor,
    PruneRegrowScheduler,
    ReDo,
    Reset,
    ShrinkAndPerturb,
)
from plasticity_lightning.networks.pixel_actor_critic import orthogonal_init
from tests.modules.test_visual_control import agent, fit

HEADS = ["actor.policy.*", "critic.q1.*", "critic.q2.*"]


@pytest.mark.parametrize(
    "callback",
    [
        Reset(HEADS, init=orthogonal_init, every=9),
        ShrinkAndPerturb(0.8, modules="encoder.*", heads=HEADS, init=orthogonal_init, every=9),
        ReDo(0.1, modules=["actor.policy.*", "critic.q?.*"], init=orthogonal_init, every=9),
        PlasticityInjection(
            ["critic.q1", "critic.q2", "target_critic.q1", "target_critic.q2"], orthogonal_init, at=20, unit="frame"
        ),
        PlasticityInjection(["encoder"], orthogonal_init, at=20, unit="frame"),
        PlasticityInjection(["actor.policy"], orthogonal_init, at=20, unit="frame"),
    ],
    ids=lambda callback: callback.state_key[:60],
)
def test_an_intervention_acts_and_training_goes_on(callback: Any) -> None:
    pl.seed_everything(0)
    model = agent()
    trainer = fit(model, [callback])
    assert callback.events >= 1
    assert model.updates == 18
    assert torch.isfinite(trainer.callback_metrics["train/critic_loss"])


def test_an_injection_leaves_critic_and_target_as_they_were_and_then_learns() -> None:
    pl.seed_everything(0)
    names = ["critic.q1", "critic.q2", "target_critic.q1", "target_critic.q2"]
    model = agent()
    seen: list[tuple[torch.Tensor, ...]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            with torch.no_grad():
                h, a = torch.ones(1, module.encoder.features), torch.zeros(1, 2)
                seen.append((*module.critic(h, a), *module.target_critic(h, a)))

    injection = PlasticityInjection(names, orthogonal_init, at=20, unit="frame")
    fit(model, [Watch(), injection, Watch()])
    before, after = seen[38], seen[39]  # both watches at tick 20
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True))
    learner, reference = model.critic.q1.learner, model.critic.q1.reference
    assert not torch.equal(learner.hidden_1.weight, reference.hidden_1.weight)
    # the target's learner follows the critic's
    assert not torch.equal(model.target_critic.q1.learner.hidden_1.weight, reference.hidden_1.weight)
    assert torch.equal(model.target_critic.q1.reference.hidden_1.weight, reference.hidden_1.weight)


@pytest.mark.parametrize(
    ("kind", "modules"),
    [
        ("layer_norm", ["critic.q?.hidden_*", "target_critic.q?.hidden_*"]),
        ("spectral_norm", ["critic.q?.hidden_2", "target_critic.q?.hidden_2"]),
        ("crelu", ["actor.policy.act_*", "critic.q?.act_*", "target_critic.q?.act_*"]),
    ],
)
def test_a_transformed_critic_starts_with_a_target_equal_to_it(kind: Any, modules: list[str]) -> None:
    pl.seed_everything(0)
    model = agent()
    equal: list[bool] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                pairs = zip(
                    module.critic.state_dict().values(), module.target_critic.state_dict().values(), strict=True
                )
                equal.append(all(torch.equal(a, b) for a, b in pairs))

    fit(model, [ModuleTransform(kind, modules), Watch()])
    assert equal == [True]
    assert model.updates == 18


def test_a_sparse_critic_keeps_its_zeros_and_its_target_follows() -> None:
    pl.seed_everything(0)
    model = agent()
    sparse = PruneRegrowScheduler(
        "static_erk", sparsity=0.6, include=["critic.*.weight"], total_steps=18, summary=False
    )
    fit(model, [sparse, PlasticityMonitor(["fau"], every=5, figure_every=0)])
    zeros = {name: float((p == 0).float().mean()) for name, p in model.critic.named_parameters() if p.ndim == 2}
    weights = {name: p.numel() for name, p in model.critic.named_parameters() if p.ndim == 2}
    share = sum(zeros[name] * n for name, n in weights.items()) / sum(weights.values())
    assert share == pytest.approx(0.6, abs=0.01)
    ours, theirs = model.critic.q1.hidden_2.weight, model.target_critic.q1.hidden_2.weight
    assert torch.equal(ours == 0, theirs == 0)
    assert not any((p == 0).float().mean() > 0.1 for p in model.actor.parameters() if p.ndim == 2)


def test_l2_init_pulls_the_learning_networks() -> None:
    model = agent()
    callback = L2Init(0.1, parameters=["encoder.*", "actor.*", "critic.*"])
    trainer = fit(model, [callback])
    assert set(callback.anchors) == {n for n, p in model.named_parameters() if not n.startswith("target")}
    assert float(trainer.callback_metrics["intervention/l2_init/penalty"]) > 0
