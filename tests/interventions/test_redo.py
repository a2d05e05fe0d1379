"""Recycling replaces the right entries by new ones, and a silent unit's replacement cannot be heard."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from plasticity_lightning.interventions.initialise import fresh_layer
from plasticity_lightning.interventions.redo import ActivitySums, dormant_units, recycle_incoming, silence_outgoing
from plasticity_lightning.interventions.unit_graph import UnitLayer, UnitTracer
from plasticity_lightning.measures import dormant


def test_dormant_units_by_hand():
    # mean of 0, 0.08, 2, 1.92 is 1, so the scores are the sums; at tau = 0.1 the first two are dormant
    assert dormant_units(torch.tensor([0.0, 0.08, 2.0, 1.92], dtype=torch.float64), 0.1).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert dormant_units(torch.zeros(3), 0.0).tolist() == [True] * 3
    assert not dormant_units(torch.tensor([torch.nan, 1.0]), 0.1).any()


@given(st.integers(0, 50), st.floats(0, 1))
def test_dormant_units_agree_with_the_measure_however_the_batch_is_cut(seed, tau):
    a = torch.randn(6, 5, 2, generator=torch.Generator().manual_seed(seed)).relu() * torch.tensor(
        [[0.01], [1], [2], [0], [3]]
    )
    sums = ActivitySums()
    for part in a.split(4):
        sums.update("a", part.movedim(1, -1).reshape(-1, 5))
    assert dormant_units(sums.sums["a"], tau).double().mean() == dormant(a, tau)
    assert sums.samples == {"a": 12}


def network(conv):
    torch.manual_seed(1)
    if conv:
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.0), nn.Linear(4, 3))


@pytest.mark.parametrize("conv", [False, True])
def test_replacing_silent_units_changes_their_weights_and_not_the_output(conv):
    net = network(conv).eval()
    x = torch.randn(7, 2, 4, 4) if conv else torch.randn(7, 5)
    silent = torch.tensor([True, False, True, False])
    net[1].running_mean.copy_(torch.tensor([1.0, -2.0, 3.0, -1.5]))
    net[1].bias.data[silent] = -50.0
    before, old = net(x), {k: v.clone() for k, v in net.state_dict().items()}
    graph, sums = {}, ActivitySums()
    with UnitTracer(net, graph, sums.update):
        net(x)
    layer = graph["0"]
    assert torch.equal(dormant_units(sums.sums["0"], 0.0), silent)
    touched = recycle_incoming(net[0], {"1": net[1]}, silent, seed=3)
    touched += silence_outgoing(layer, {"4": net[4]}, silent)
    torch.testing.assert_close(net(x), before, rtol=0, atol=1e-6)

    fresh = fresh_layer(net[0], 3)
    for name in ("weight", "bias"):
        now, then = getattr(net[0], name), old[f"0.{name}"]
        assert torch.equal(now[silent], getattr(fresh, name)[silent])
        assert torch.equal(now[~silent], then[~silent])
    assert net[1].weight[silent].tolist() == [1.0, 1.0]
    assert net[1].bias[silent].tolist() == [0.0, 0.0]
    assert net[1].running_mean.tolist() == [0.0, -2.0, 0.0, -1.5]
    columns = silent.repeat_interleave(4 if conv else 1)
    assert not net[4].weight[:, columns].any()
    assert torch.equal(net[4].weight[:, ~columns], old["4.weight"][:, ~columns])
    assert torch.equal(net[4].bias, old["4.bias"])

    names = {id(p): n for n, p in net.named_parameters()}
    assert {names[id(t.parameter)] for t in touched} == {"0.weight", "0.bias", "1.weight", "1.bias", "4.weight"}
    for parameter, entries in touched:
        changed = (parameter != old[names[id(parameter)]]) & ~entries.expand_as(parameter)
        assert not changed.any()


def test_transposed_convolutions_are_replaced_along_their_own_dimension():
    net = nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.ReLU(), nn.ConvTranspose1d(3, 2, 2))
    old = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    units = torch.tensor([False, True, False])
    recycle_incoming(net[0], {}, units, 0)
    silence_outgoing(UnitLayer(3, {"2": 1}), {"2": net[2]}, units)
    assert ((net[0].weight != old[0]).any(2).any(0) == units).all()
    assert not net[2].weight[1].any()
    assert torch.equal(net[2].weight[[0, 2]], old[1][[0, 2]])


def test_frozen_parameters_are_left_alone():
    a, b = nn.Linear(2, 2), nn.Linear(2, 1)
    a.bias.requires_grad_(False)
    b.weight.requires_grad_(False)
    kept = a.bias.clone(), b.weight.clone()
    units = torch.ones(2, dtype=torch.bool)
    touched = recycle_incoming(a, {}, units, 0) + silence_outgoing(UnitLayer(2, {"b": 1}), {"b": b}, units)
    assert [t.parameter is a.weight for t in touched] == [True]
    assert torch.equal(a.bias, kept[0])
    assert torch.equal(b.weight, kept[1])


def test_nothing_is_read_from_the_device():
    """Tensors on the meta device have no values: reading one raises."""
    sums = ActivitySums()
    sums.update("a", torch.empty(4, 3, device="meta"))
    units = dormant_units(sums.sums["a"], 0.1)
    silence_outgoing(UnitLayer(3, {"b": 2}), {"b": nn.Linear(6, 2, device="meta")}, units)
