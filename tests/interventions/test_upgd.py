"""UPGD against a slow reference written from its equations, entry by entry in Python."""

import math

import pytest
import torch
from torch import nn

from plasticity_lightning.interventions import UPGD


def reference(weights, gradients, lr, weight_decay, beta, uncorrected):
    """Elsayed & Mahmood 2024, first order, global, without noise: lists of floats in and out."""
    trace = [[0.0] * len(w) for w in weights]
    weights = [list(w) for w in weights]
    for t, step in enumerate(gradients, start=1):
        for w, g, u in zip(weights, step, trace, strict=True):
            for i in range(len(w)):
                u[i] = beta * u[i] + (1 - beta) * (-g[i] * w[i])
        correction = 1 - beta**t
        maximum = max(x for u in trace for x in u) / (1.0 if uncorrected else correction)
        for w, g, u in zip(weights, step, trace, strict=True):
            for i in range(len(w)):
                scaled = 1 / (1 + math.exp(-u[i] / correction / maximum))
                w[i] = (1 - lr * weight_decay) * w[i] - lr * g[i] * (1 - scaled)
    return weights


@pytest.mark.parametrize("uncorrected", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_without_noise_it_follows_the_equations(uncorrected, beta):
    generator = torch.Generator().manual_seed(0)
    sizes = [3, 2]
    start = [torch.randn(n, generator=generator, dtype=torch.float64) for n in sizes]
    gradients = [[torch.randn(n, generator=generator, dtype=torch.float64) for n in sizes] for _ in range(6)]
    parameters = [nn.Parameter(w.clone()) for w in start]
    settings = {"lr": 0.1, "weight_decay": 0.01, "beta_utility": beta, "uncorrected_maximum": uncorrected}
    optimizer = UPGD([{"params": [p]} for p in parameters], sigma=0.0, **settings)  # the maximum is over all groups
    for step in gradients:
        for p, g in zip(parameters, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    plain = [[g.tolist() for g in step] for step in gradients]
    expected = reference([w.tolist() for w in start], plain, 0.1, 0.01, beta, uncorrected)
    for p, w in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), torch.tensor(w, dtype=torch.float64), rtol=1e-6, atol=1e-8)


def test_useful_weights_are_moved_less_and_perturbed_less():
    # -g w = 1 and -1: scaled utilities sigmoid(1) and sigmoid(-1), steps 1 - sigmoid(1) = 0.2689 and 0.7311 of lr g
    w = nn.Parameter(torch.tensor([1.0, 1.0]))
    w.grad = torch.tensor([-1.0, 1.0])
    UPGD([w], lr=1.0, sigma=0.0, beta_utility=0.0).step()
    torch.testing.assert_close(w.detach(), torch.tensor([1.2689414, 1 - 0.7310586]))
    # no gradient: the noise alone, gated by sigmoid(0) = 1/2
    w = nn.Parameter(torch.zeros(100_000))
    w.grad = torch.zeros(100_000)
    UPGD([w], lr=1.0, sigma=0.2).step()
    assert w.std().item() == pytest.approx(0.1, rel=0.02)
    assert w.mean().abs() < 2e-3


def test_the_noise_is_a_function_of_seed_and_step_and_leaves_the_global_state():
    def run(steps, seed=0, resume_at=None):
        torch.manual_seed(steps)
        w = nn.Parameter(torch.ones(5))
        optimizer = UPGD([w], lr=0.1, sigma=0.5, seed=seed)
        for step in range(steps):
            if step == resume_at:
                state = optimizer.state_dict()
                optimizer = UPGD([w], lr=0.1, sigma=0.5, seed=seed)
                optimizer.load_state_dict(state)
                torch.manual_seed(99)
            w.grad = torch.full((5,), 0.1)
            optimizer.step()
        return w.detach()

    state = torch.get_rng_state()
    w = nn.Parameter(torch.ones(5))
    w.grad = torch.ones(5)
    UPGD([w]).step()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(run(6), run(6, resume_at=3))
    assert not torch.equal(run(6), run(6, seed=1))


def test_parameters_without_gradient_and_a_closure():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = UPGD([used, unused], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2.0
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))
    optimizer.zero_grad()
    optimizer.step()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1}, "lr=-1 must not be negative"),
        ({"sigma": -0.1}, r"sigma=-0\.1 must not be negative"),
        ({"beta_utility": 1.0}, r"beta_utility=1\.0 must be in \[0, 1\)"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        UPGD([nn.Parameter(torch.ones(1))], **arguments)
