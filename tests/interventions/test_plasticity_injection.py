"""Injection does not change the output by a single bit, and only the new head learns afterwards."""

import pytest
import torch
from torch import nn

from plasticity_lightning.interventions.plasticity_injection import InjectableHead


def head():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def test_the_output_is_exactly_the_same_at_the_moment_of_injection():
    injectable, x = InjectableHead(head()), torch.randn(7, 3)
    before = injectable(x)
    assert torch.equal(before, head()(x))
    changed = injectable.inject(seed=4)
    assert torch.equal(injectable(x), before)
    assert not torch.equal(injectable.learner[0].weight, injectable.original[0].weight)
    assert torch.equal(injectable.learner[0].weight, injectable.reference[0].weight)
    assert len(changed) == 8


def test_only_the_learner_learns_and_the_number_of_trainable_parameters_stays():
    injectable, x = InjectableHead(head()), torch.randn(7, 3)
    optimizer = torch.optim.Adam(injectable.parameters(), 0.1, weight_decay=0.1)
    injectable(x).sum().backward()
    optimizer.step()
    injectable.inject(0)
    old = {k: v.clone() for k, v in injectable.state_dict().items() if not k.startswith("_")}
    assert sum(p.numel() for p in injectable.parameters() if p.requires_grad) == sum(
        p.numel() for p in head().parameters()
    )
    for _ in range(2):
        injectable(x).square().sum().backward()
        optimizer.step()
    for name, value in injectable.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, old[name]) == (not name.startswith("learner")), name


def test_before_the_injection_the_place_costs_nothing_and_learns_nothing():
    injectable = InjectableHead(head())
    injectable(torch.randn(2, 3)).sum().backward()
    assert all(p.grad is None for p in (*injectable.learner.parameters(), *injectable.reference.parameters()))
    assert all(p.grad is not None for p in injectable.original.parameters())


def test_the_state_dict_carries_the_injection_both_ways():
    injected, x = InjectableHead(head()), torch.randn(2, 3)
    injected.original[0].bias.requires_grad_(False)
    plain = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in injected.state_dict().items()}
    injected.inject(1)
    nn.init.ones_(injected.learner[2].bias)
    other = InjectableHead(head())
    other.load_state_dict(injected.state_dict())
    assert torch.equal(other(x), injected(x))
    assert not any(p.requires_grad for p in other.original.parameters())
    other.load_state_dict(plain)
    assert torch.equal(other(x), head()(x))
    assert all(p.requires_grad for p in other.original.parameters())


def test_it_can_be_done_once():
    injectable = InjectableHead(head())
    injectable.inject(0)
    with pytest.raises(RuntimeError, match="can be done once"):
        injectable.inject(0)
