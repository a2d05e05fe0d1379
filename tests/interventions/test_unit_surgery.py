"""Surgery replaces the right entries by new ones; a silent or constant unit's replacement cannot be heard."""

import pytest
import torch
from torch import nn

from plasticity_lightning.interventions.initialise import fresh_layer
from plasticity_lightning.interventions.redo import dormant_units
from plasticity_lightning.interventions.unit_graph import UnitLayer, UnitTracer
from plasticity_lightning.interventions.unit_surgery import (
    ActivitySums,
    compensate_biases,
    outgoing_magnitude,
    recycle_incoming,
    renew_norms,
    silence_outgoing,
)


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
    touched = recycle_incoming(net[0], silent, seed=3) + renew_norms({"1": net[1]}, silent, seed=3)
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
    recycle_incoming(net[0], units, 0)
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
    touched = recycle_incoming(a, units, 0) + silence_outgoing(UnitLayer(2, {"b": 1}), {"b": b}, units)
    assert [t.parameter is a.weight for t in touched] == [True]
    assert torch.equal(a.bias, kept[0])
    assert torch.equal(b.weight, kept[1])


def test_nothing_is_read_from_the_device():
    """Tensors on the meta device have no values: reading one raises."""
    sums = ActivitySums()
    sums.update("a", torch.empty(4, 3, device="meta"))
    units = dormant_units(sums.sums["a"], 0.1)
    silence_outgoing(UnitLayer(3, {"b": 2}), {"b": nn.Linear(6, 2, device="meta")}, units)


def test_outgoing_magnitude_by_hand():
    b, c = nn.Linear(4, 2), nn.Conv1d(2, 1, 2)
    nn.init.constant_(b.weight, -1.0)
    nn.init.constant_(c.weight, 0.5)
    layer = UnitLayer(2, {"b": 2, "c": 1})
    # each unit fills 2 inputs of b: 2 outputs * 2 * 1, and one channel of c: 2 positions * 0.5
    assert outgoing_magnitude(layer, {"b": b, "c": c}).tolist() == [5.0, 5.0]


@pytest.mark.parametrize("kind", ["linear", "conv", "transposed"])
def test_a_unit_of_constant_activation_is_replaced_without_a_change_downstream(kind):
    torch.manual_seed(0)
    consumer = {
        "linear": lambda: nn.Linear(6, 3),
        "conv": lambda: nn.Conv1d(3, 4, 2),
        "transposed": lambda: nn.ConvTranspose1d(3, 4, 1),
    }[kind]()
    layer = UnitLayer(3, {"c": 2 if kind == "linear" else 1})
    x = torch.rand(5, 3, 2)
    x[:, 1] = 0.7
    flat = x.flatten(1) if kind == "linear" else x
    before = consumer(flat)
    units = torch.tensor([False, True, False])
    changed = compensate_biases(layer, {"c": consumer}, units, torch.tensor([9.0, 0.7, 9.0]))
    silence_outgoing(layer, {"c": consumer}, units)
    torch.testing.assert_close(consumer(flat), before)
    assert changed[0] is consumer.bias


def test_a_consumer_without_bias_gets_nothing():
    consumer = nn.Linear(2, 2, bias=False)
    assert compensate_biases(UnitLayer(2, {"c": 1}), {"c": consumer}, torch.ones(2).bool(), torch.ones(2)) == []
