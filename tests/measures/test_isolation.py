"""A copy without hooks, and random states that come back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from plasticity_lightning.measures.isolation import isolated_copy, undisturbed


class Stateful(nn.Module):
    """A spiking layer in miniature: its potential keeps the graph of the last forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.v = torch.zeros(2)
        self.memory = {"trace": [torch.zeros(2)]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.v = 0.5 * self.v + self.linear(x)
        self.memory["trace"] = [self.v * 2]
        return self.v


class Uncopyable:
    def __deepcopy__(self, memo: dict) -> None:
        raise AssertionError("what a hook closes over must not be copied")


def test_hooks_stay_with_the_live_module():
    net, calls, owner = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), [], Uncopyable()

    class Monitor:
        def __init__(self) -> None:
            self.owner = owner

        def hook(self, *args: object) -> None:
            calls.append(args)

    net[1].register_forward_hook(Monitor().hook)
    net[0].register_forward_pre_hook(lambda *args: calls.append(args))
    net[0].register_full_backward_hook(lambda *args: calls.append(args))
    copy = isolated_copy(net)
    copy(torch.ones(1, 2)).sum().backward()
    assert calls == []
    net(torch.ones(1, 2)).sum().backward()
    assert len(calls) == 3


def test_the_copy_is_equal_independent_and_without_gradients():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    net[0].weight.requires_grad_(False)
    net(torch.ones(4, 2)).sum().backward()
    copy = isolated_copy(net)
    assert not copy.training
    assert not copy[0].weight.requires_grad
    assert all(p.grad is None for p in copy.parameters())
    for key, value in net.state_dict().items():
        assert torch.equal(copy.state_dict()[key], value)
        assert copy.state_dict()[key].data_ptr() != value.data_ptr()


def test_shared_parameters_stay_shared():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    copy = isolated_copy(net)
    assert copy["a"].weight is copy["b"].weight
    assert copy["a"].weight is not net["a"].weight


def test_state_that_carries_a_graph_is_copied_detached():
    net = Stateful()
    net(torch.ones(2))
    copy = isolated_copy(net)
    for live, new in ((net.v, copy.v), (net.memory["trace"][0], copy.memory["trace"][0])):
        assert torch.equal(live, new)
        assert live.requires_grad
        assert not new.requires_grad


def test_weights_that_torch_computes_in_a_hook_still_follow_their_parameters():
    with pytest.warns(FutureWarning, match="deprecated"):
        net = torch.nn.utils.weight_norm(nn.Linear(2, 2, bias=False))
    copy = isolated_copy(net)
    with torch.no_grad():
        copy.weight_g.mul_(2.0)
    torch.testing.assert_close(copy(torch.ones(1, 2)), 2 * net(torch.ones(1, 2)))


@pytest.mark.slow  # the compiler's import alone takes seconds
def test_the_original_of_a_compiled_module_is_copied():
    net = nn.Linear(2, 2)
    assert type(isolated_copy(torch.compile(net))) is nn.Linear


def test_every_random_state_comes_back_even_after_an_error():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    draws = []
    for _ in range(2):
        with pytest.raises(RuntimeError, match="inside"), undisturbed(seed=3):  # noqa: PT012
            draws.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
            raise RuntimeError("inside")
    assert draws[0] == draws[1]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_a_copy_can_be_trained_from_within_inference_mode():
    net = nn.Linear(2, 1)
    with torch.inference_mode(), undisturbed(seed=0):
        copy = isolated_copy(net)
        copy(torch.ones(1, 2)).sum().backward()
    assert copy.weight.grad.tolist() == [[1.0, 1.0]]


def test_a_module_is_copied_without_the_run_that_it_serves():
    run = Uncopyable()
    net = nn.Sequential(nn.Linear(2, 2))
    net._trainer = net[0]._trainer = net._fabric = run
    net.note = {"again": run, "epochs": [1]}
    copy = isolated_copy(net)
    assert copy._trainer is copy[0]._trainer is copy._fabric is None
    assert copy.note == {"again": None, "epochs": [1]}
    assert net._trainer is net[0]._trainer is net._fabric is net.note["again"] is run
