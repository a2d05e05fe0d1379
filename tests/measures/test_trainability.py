"""The probe task: what it measures, and that it leaves no trace."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from plasticity_lightning.measures.trainability import fresh_copy, fresh_optimizer, probe_loss, probe_targets

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def snapshot(value: object) -> object:
    return copy.deepcopy(value)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_the_live_run_is_bitwise_what_it_was(mode, task):
    net = getattr(network(), mode)()
    optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.01), weight_decay=0.1)
    calls = []
    net[2].register_forward_hook(lambda *args: calls.append(args))
    functional.mse_loss(net(X), torch.zeros(32, 3)).backward()
    optimizer.step()
    calls.clear()

    def observed() -> list[object]:
        return [
            dict(net.state_dict()),
            [p.grad for p in net.parameters()],
            [p.data_ptr() for p in net.parameters()],
            optimizer.state_dict(),
            torch.get_rng_state(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
            net.training,
            X,
        ]

    before = snapshot(observed())
    with torch.inference_mode(mode == "eval"):
        result = probe_loss(net, X, optimizer, task, steps=5)
    assert all(value.isfinite() for value in result)
    assert same(before, observed())
    assert calls == []
    # and training goes on exactly as if nothing had been measured
    other = copy.deepcopy(net)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=torch.tensor(0.01), weight_decay=0.1)
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, stepper in ((net, optimizer), (other, other_optimizer)):
        torch.manual_seed(5)
        stepper.zero_grad()
        functional.mse_loss(model(X), torch.ones(32, 3)).backward()
        stepper.step()
    assert same(dict(net.state_dict()), dict(other.state_dict()))


def test_a_fresh_network_scores_one_and_a_dead_one_worse():
    net = fresh_copy(network(), seed=7)
    assert probe_loss(net, X, adam, seed=7, steps=20).ratio == 1.0  # the same network, bit for bit
    dead = network()
    with torch.no_grad():
        dead[1].bias.fill_(-100.0)  # no ReLU ever fires: only the last bias can learn
    result = probe_loss(dead, X, adam, steps=100)
    assert result.ratio > 1.3
    # the best constant prediction of standardised targets has mean squared error 1
    assert result.loss > 0.9


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_the_probe_is_a_loop_of_plain_training(task):
    net = nn.Linear(6, 3)
    result = probe_loss(net, X, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), task, steps=7, seed=3)
    y = probe_targets(X, 3, task, seed=3)
    loss = functional.mse_loss if task == "regression" else functional.cross_entropy
    by_hand = copy.deepcopy(net)
    assert result.initial_loss == pytest.approx(loss(by_hand(X), y).item(), rel=1e-6)
    velocity = [torch.zeros_like(p) for p in by_hand.parameters()]
    for _ in range(7):
        gradients = torch.autograd.grad(loss(by_hand(X), y), list(by_hand.parameters()))
        with torch.no_grad():
            for p, v, g in zip(by_hand.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g)
                p.sub_(0.1 * v)
    assert result.loss == pytest.approx(loss(by_hand(X), y).item(), rel=1e-5)
    assert result.loss < result.initial_loss


def test_the_optimiser_keeps_its_settings_per_group_and_loses_its_state():
    net = network()
    live = torch.optim.SGD(
        [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[4].parameters(), "lr": 0.5, "weight_decay": 0.2}],
        lr=0.3,
        momentum=0.9,
    )
    net(X).sum().backward()
    live.step()
    live.param_groups[0]["lr"] = 0.05  # a schedule
    other = copy.deepcopy(net)
    fresh = fresh_optimizer(live, net, other)
    assert type(fresh) is torch.optim.SGD
    assert [g["lr"] for g in fresh.param_groups] == [0.05, 0.5]
    assert [g["weight_decay"] for g in fresh.param_groups] == [0.0, 0.2]
    assert [g["momentum"] for g in fresh.param_groups] == [0.9, 0.9]
    assert fresh.param_groups[0]["params"][0] is other[0].weight
    assert not fresh.state
    with pytest.raises(ValueError, match="holds no parameter of Linear"):
        fresh_optimizer(live, nn.Linear(2, 2), other)


@pytest.mark.parametrize("cls", ["SGD", "Adam", "AdamW", "RMSprop", "Adadelta", "Adagrad", "NAdam", "RAdam", "Adamax"])
def test_every_common_optimiser_can_be_made_afresh(cls):
    net = nn.Linear(6, 2)
    live = getattr(torch.optim, cls)(net.parameters(), lr=0.01)
    functional.mse_loss(net(X), torch.zeros(32, 2)).backward()
    live.step()
    probe = probe_loss(net, X, live, steps=2)
    assert probe.loss < probe.initial_loss


def test_a_learning_rate_in_a_tensor_is_not_shared_with_the_live_optimiser():
    net = nn.Linear(6, 2)
    live = torch.optim.Adam(net.parameters(), lr=torch.tensor(0.01))
    fresh = fresh_optimizer(live, net, copy.deepcopy(net))
    fresh.param_groups[0]["lr"].mul_(10)
    assert live.param_groups[0]["lr"] == pytest.approx(0.01)


def test_the_wrapper_of_lightning_is_unwrapped():
    optimizer_module = pytest.importorskip("lightning.pytorch.core.optimizer")
    net = nn.Linear(6, 2)
    wrapped = optimizer_module.LightningOptimizer(torch.optim.AdamW(net.parameters(), lr=0.02))
    fresh = fresh_optimizer(wrapped, net, copy.deepcopy(net))
    assert type(fresh) is torch.optim.AdamW
    assert fresh.param_groups[0]["lr"] == 0.02


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_targets_are_a_standardised_function_of_inputs_and_seed(seed, outputs):
    y = probe_targets(X, outputs, "regression", seed)
    assert y.shape == (32, outputs)
    torch.testing.assert_close(y.mean(0), torch.zeros(outputs), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(outputs), atol=1e-4, rtol=0)
    assert torch.equal(y, probe_targets(X, outputs, "regression", seed))
    assert not torch.equal(y, probe_targets(X, outputs, "regression", seed + 1))
    order = torch.randperm(32)
    torch.testing.assert_close(probe_targets(X[order], outputs, "regression", seed), y[order], atol=1e-5, rtol=1e-4)
    labels = probe_targets(X, outputs, "classification", seed)
    assert labels.min() >= 0
    assert labels.max() < outputs


def test_images_in_integers_have_targets_too():
    pixels = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    assert probe_targets(pixels, 2, "regression", 0).dtype == torch.float32


def test_a_fresh_copy_uses_the_own_initialiser_and_the_seed():
    class Scaled(nn.Linear):
        def reset_parameters(self) -> None:
            nn.init.constant_(self.weight, 7.0)
            nn.init.zeros_(self.bias)

    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

    net = nn.Sequential(nn.Linear(2, 2), Scaled(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        net[1].weight.zero_()
        net[2].running_mean.fill_(3.0)
    new = fresh_copy(net, seed=1)
    assert new[1].weight.eq(7.0).all()
    assert new[2].running_mean.eq(0.0).all()
    assert not torch.equal(new[0].weight, net[0].weight)
    assert torch.equal(new[0].weight, fresh_copy(net, seed=1)[0].weight)
    assert not torch.equal(new[0].weight, fresh_copy(net, seed=2)[0].weight)
    with pytest.raises(ValueError, match=r"1 \(Gain\)"):
        fresh_copy(nn.Sequential(nn.Linear(2, 2), Gain()), seed=0)

    class Parent(Gain):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Gain()

        def reset_parameters(self) -> None:
            self.gain.fill_(2.0)
            self.inner.gain.fill_(3.0)

    assert fresh_copy(Parent(), seed=0).inner.gain == 3.0


def test_attention_is_reset_by_its_own_rule():
    attention = nn.MultiheadAttention(4, 2)
    assert fresh_copy(attention, seed=0).out_proj.bias.eq(0).all()  # the parent decides over its projection


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(ValueError, match="steps=0"):
        probe_loss(nn.Linear(6, 2), X, adam, steps=0)
    with pytest.raises(ValueError, match="task='rank'"):
        probe_loss(nn.Linear(6, 2), X, adam, task="rank")
    with pytest.raises(ValueError, match=r"\[32, outputs\]; got \(32, 6, 1\)"):
        probe_loss(nn.Unflatten(1, (6, 1)), X, lambda p: adam([nn.Parameter(torch.ones(1))]))
