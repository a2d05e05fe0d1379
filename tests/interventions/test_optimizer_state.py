"""Moments are zero exactly where weights are new, and only there."""

import pytest
import torch
from torch import nn

from plasticity_lightning.interventions.optimizer_state import check_moments, forget_moments

ADAPTIVE = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.Adam, {"lr": 0.1, "amsgrad": True}),
    (torch.optim.AdamW, {"lr": 0.1}),
    (torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.9, "centered": True}),
    (torch.optim.NAdam, {"lr": 0.1}),
    (torch.optim.Adagrad, {"lr": 0.1}),
    (torch.optim.Rprop, {"lr": 0.1}),
    (torch.optim.Adafactor, {"lr": 0.1}),
    (torch.optim.ASGD, {"lr": 0.1}),
]


def trained(cls, settings, steps=3):
    torch.manual_seed(0)
    w, other = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2))
    optimizer = cls([w, other], **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        ((w @ other) ** 2).sum().backward()
        optimizer.step()
    return w, other, optimizer


@pytest.mark.parametrize(("cls", "settings"), ADAPTIVE)
def test_after_a_whole_reset_the_next_step_is_that_of_a_fresh_optimizer(cls, settings):
    w, _, optimizer = trained(cls, settings)
    forget_moments([optimizer], w)
    fresh = nn.Parameter(w.detach().clone())
    other = cls([fresh], **settings)
    w.grad = torch.arange(6.0).view(3, 2) - 2.5
    fresh.grad = w.grad.clone()
    optimizer.step()
    other.step()
    torch.testing.assert_close(w, fresh, rtol=0, atol=0)


@pytest.mark.parametrize(("cls", "settings"), ADAPTIVE[:4])
def test_single_entries_are_forgotten_and_all_else_is_bitwise_kept(cls, settings):
    w, other, optimizer = trained(cls, settings)
    before = {k: v.clone() for k, v in optimizer.state[w].items() if isinstance(v, torch.Tensor)}
    untouched = {k: v.clone() for k, v in optimizer.state[other].items() if isinstance(v, torch.Tensor)}
    rows = torch.tensor([True, False, True])
    forget_moments([optimizer], w, rows[:, None])
    for key, value in before.items():
        now = optimizer.state[w][key]
        if key == "step":
            assert now == value
        else:
            assert value[rows].any()
            assert not now[rows].any()
            assert torch.equal(now[~rows], value[~rows])
    assert all(torch.equal(optimizer.state[other][k], v) for k, v in untouched.items())


def test_adam_is_reset_in_place_so_that_a_captured_graph_sees_it():
    w, _, optimizer = trained(torch.optim.Adam, {"lr": 0.1})
    buffers = dict(optimizer.state[w])
    forget_moments([optimizer], w)
    assert all(optimizer.state[w][k] is v for k, v in buffers.items())
    assert all(not v.any() for v in buffers.values())


def test_unknown_states_cannot_be_forgotten_by_entry():
    w, _, optimizer = trained(torch.optim.Rprop, {"lr": 0.1})
    with pytest.raises(ValueError, match=r"Rprop keeps .*'step_size'.* use SGD, Adam"):
        forget_moments([optimizer], w, torch.tensor([[True], [False], [False]]))


def test_a_parameter_without_state_or_of_another_optimizer_is_no_matter():
    _, _, optimizer = trained(torch.optim.Adam, {"lr": 0.1})
    forget_moments([optimizer], nn.Parameter(torch.zeros(3)))
    w, _, plain = trained(torch.optim.SGD, {"lr": 0.1})
    forget_moments([optimizer, plain], w, torch.ones(3, 1, dtype=torch.bool))


def test_policies():
    check_moments("keep")
    with pytest.raises(ValueError, match="moments='reset' must be one of zero, keep"):
        check_moments("reset")
