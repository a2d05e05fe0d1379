"""Izhikevich neurons: hand-computed steps, draws, and the nodes against SpikingJelly's own where that can say the same."""

from __future__ import annotations

import math

import pytest
import torch
from spikingjelly.activation_based import functional, neuron

from plasticity_lightning.spiking.izhikevich import (
    CapacitanceIzhikevich,
    Izhikevich,
    izhikevich_capacitance_step,
    izhikevich_step,
)
from plasticity_lightning.spiking.izhikevich_nodes import CapacitanceIzhikevichNode, IzhikevichNode
from plasticity_lightning.spiking.izhikevich_populations import (
    NeuronSpread,
    draw_izhikevich,
    nicola_clopath_neurons,
)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_one_step_by_hand() -> None:
    # v = -60, u = -10, I = 10; v' = 0.04*3600 - 300 + 140 + 10 + 10 = 4: v = -58;
    # again v' = 0.04*3364 - 290 + 140 + 10 + 10 = 4.56: v = -55.72; u += 0.02 (0.2 * -55.72 + 10) = -0.02288
    spikes, v, u = izhikevich_step(f64(-60.0), f64(-10.0), f64(10.0), a=0.02, b=0.2, c=-65.0, d=8.0)
    assert not spikes
    assert float(v) == pytest.approx(-55.72, abs=1e-12)
    assert float(u) == pytest.approx(-10.02288, abs=1e-12)


@pytest.mark.parametrize(("current", "held"), [(1e4, "first half step"), (40.0, "second half step")])
def test_a_spike_clamps_at_30_before_recovery_moves(current: float, held: str) -> None:
    # v reaches 30 in either half step and is held: u = 2 + 0.02 (0.2 * 30 - 2) = 2.08, then +8
    v = f64(-20.0)
    first = -20.0 + 0.5 * (0.04 * 400 - 100 + 140 - 2 + current)
    assert (first >= 30) == (held == "first half step")
    spikes, v, u = izhikevich_step(v, f64(2.0), f64(current), a=0.02, b=0.2, c=-65.0, d=8.0)
    assert spikes == 1
    assert v == -65
    assert float(u) == pytest.approx(10.08, abs=1e-12)


def test_one_capacitance_step_by_hand() -> None:
    # C v' = 2.5 * 10 * (-50 + 20) - 5 + 1005 = 250: v = -50 + 0.04 * 250 / 250 = -49.96; u from the old v: 5 + 0.04 * 0.01 * (-2 * 10 - 5) = 4.99
    spikes, v, u = izhikevich_capacitance_step(
        f64(-50.0),
        f64(5.0),
        f64(1005.0),
        capacitance=250.0,
        k=2.5,
        v_rest=-60.0,
        v_threshold=-20.0,
        v_peak=30.0,
        v_reset=-65.0,
        a=0.01,
        b=-2.0,
        d=200.0,
    )
    assert not spikes
    assert float(v) == pytest.approx(-49.96, abs=1e-12)
    assert float(u) == pytest.approx(4.99, abs=1e-12)


def test_a_capacitance_spike_resets_and_jumps() -> None:
    cells = nicola_clopath_neurons(1)
    spikes, v, u = cells.step(f64(29.999), f64(0.0), f64(3e6))
    assert spikes == 1
    assert v == -65
    assert float(u) == pytest.approx(200.0 + 0.04 * 0.01 * (-2.0 * 89.999), abs=1e-12)


def test_parameters_differ_between_neurons() -> None:
    cells = Izhikevich(f64(0.02, 0.1), f64(0.2, 0.25), f64(-65.0, -50.0), f64(8.0, 2.0), f64(0.0, 0.0))
    v, u = cells.at_rest()
    assert torch.equal(u, f64(-13.0, -16.25))
    for i in range(2):
        alone = [value[i : i + 1] for value in cells.tensors().values()]
        _, v_alone, u_alone = Izhikevich(*alone).step(v[i : i + 1], u[i : i + 1], f64(12.0))
        _, v_both, u_both = cells.step(v, u, f64(12.0, 12.0))
        assert v_both[i] == v_alone[0]
        assert u_both[i] == u_alone[0]


def test_drawn_neurons_lie_in_their_ranges() -> None:
    cells = draw_izhikevich(4000, 1000, generator=torch.Generator().manual_seed(0))
    e, i = slice(0, 4000), slice(4000, 5000)
    assert 0.002 <= float(cells.a[e].min()) < 0.0021
    assert 0.0195 < float(cells.a[e].max()) <= 0.02
    assert float(cells.a[e].log().mean()) == pytest.approx(math.log(0.002 * 0.02) / 2, abs=0.03)  # log-uniform
    assert float(cells.a[i].min()) >= 0.02
    assert float(cells.a[i].max()) <= 0.1
    # b = 0.25 - 0.05 q and a = 0.02 + 0.08 q of the same q; c and d of excitatory neurons likewise
    torch.testing.assert_close(cells.b[i], 0.25 - 0.05 * (cells.a[i] - 0.02) / 0.08)
    torch.testing.assert_close(cells.d[e], 8.0 - 6.0 * (cells.v_reset[e] + 65.0) / 15.0)
    assert bool((cells.v_reset[i] == -65).all())
    assert bool((cells.d[i] == 2).all())
    assert float(cells.bias[e].min()) >= 3.5
    assert float(cells.bias[e].max()) <= 5.0
    assert float(cells.bias[i].max()) <= 2.0


def test_homogeneous_neurons_take_the_middle_of_each_range() -> None:
    cells = draw_izhikevich(3, 2, spread=NeuronSpread(homogeneous=True), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cells.a, f64(*[math.sqrt(0.002 * 0.02)] * 3, 0.06, 0.06))
    torch.testing.assert_close(cells.bias, f64(4.25, 4.25, 4.25, 1.0, 1.0))
    torch.testing.assert_close(cells.d, f64(6.5, 6.5, 6.5, 2.0, 2.0))


def test_bad_parameters_are_refused() -> None:
    good = {"a": f64(0.02), "b": f64(0.2), "v_reset": f64(-65.0), "d": f64(8.0), "bias": f64(0.0)}
    for change, message in (
        ({"a": f64(0.0)}, "a must be positive"),
        ({"v_reset": f64(30.0)}, "below 30"),
        ({"b": f64(math.nan)}, "b must be finite"),
        ({"b": f64(0.1, 0.2)}, "b has shape"),
        ({"b": torch.tensor([0.1])}, "b must be float64"),
    ):
        with pytest.raises(ValueError, match=message):
            Izhikevich(**{**good, **change})
    cells = nicola_clopath_neurons(2).tensors()
    for change, message in (
        ({"capacitance": f64(0.0, 1.0)}, "capacitance must be positive"),
        ({"v_peak": f64(-70.0, 30.0)}, "above v_reset"),
        ({"dt": 0.0}, "dt=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            CapacitanceIzhikevich(**{**cells, **change})
    with pytest.raises(ValueError, match="recovery"):
        NeuronSpread(recovery=(0.02, 0.002))
    with pytest.raises(ValueError, match="at least one neuron"):
        draw_izhikevich(0, 0, generator=torch.Generator())
    for arguments, message in (
        ({"a": 0.0}, "a must be positive"),
        ({"c": 31.0}, "c must be below 30"),
        ({"dt": 0.0}, "dt=0.0"),
        ({"substeps": 3}, "substeps=3"),
        ({"d": math.inf}, "d must be finite"),
        ({"backend": "cuda"}, "backend='cuda'"),
    ):
        with pytest.raises(ValueError, match=message):
            IzhikevichNode(**arguments)
    with pytest.raises(ValueError, match="do not fit an input"):
        IzhikevichNode(a=torch.full((3,), 0.02))(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("a", "b", "c", "d"),
    [(0.02, 0.2, -65.0, 8.0), (0.02, 0.2, -50.0, 2.0), (0.1, 0.2, -65.0, 2.0), (0.03, 0.25, -55.0, 0.0)],
    ids=["regular", "chattering", "fast", "no-jump"],
)
def test_a_homogeneous_group_equals_spikingjellys_node(a: float, b: float, c: float, d: float) -> None:
    dt = 0.5
    v_rest, v_c = ((-5.0 + sign * math.sqrt(2.6)) / 0.08 for sign in (-1, 1))  # roots of 0.04 v^2 + 5 v + 140
    theirs = neuron.IzhikevichNode(
        1.0 / dt, v_c, 0.04, 30.0, c, v_rest, 0.0, 1.0 / (a * dt), b, d, detach_reset=True, step_mode="m"
    )
    ours = IzhikevichNode(a, b, c, d, dt=dt, substeps=1, clamp=False, step_mode="m")
    x = 9.0 + 3.0 * torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    v = torch.full((4,), -65.0)
    ours.v, ours.u = v, b * v
    theirs.v, theirs.w = v, b * (v - v_rest)  # w = u - b v_rest, hence the shift of their input
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual, expected = ours(x_ours), theirs(x_theirs - b * v_rest)
    assert int(expected.sum()) > 3
    assert torch.equal(actual, expected)
    torch.testing.assert_close(ours.v, theirs.v, rtol=1e-3, atol=1e-3)
    # their kernel computes in float32, and the overshoot at a spike, which enters u, magnifies the rounding
    torch.testing.assert_close(ours.u, theirs.w + b * v_rest, rtol=2e-2, atol=1e-2)
    if d == 0.0:  # through the jump of u SpikingJelly passes the spike's gradient, we do not
        weight = torch.arange(expected.numel()).reshape(expected.shape).sin()
        (actual * weight).sum().backward()
        (expected * weight).sum().backward()
        size = float(x_theirs.grad.abs().max())
        torch.testing.assert_close(x_ours.grad, x_theirs.grad, rtol=1e-3, atol=1e-3 * size)


@pytest.mark.parametrize("make", [IzhikevichNode, CapacitanceIzhikevichNode])
def test_step_modes_reset_and_memories(make: type) -> None:
    node = make(bias=torch.tensor([1000.0, 4000.0, 9000.0]) if make is CapacitanceIzhikevichNode else 14.0)
    steps = 1500 if make is CapacitanceIzhikevichNode else 60
    x = torch.zeros(steps, 2, 3)
    single = torch.stack([node(step) for step in x])
    v_after = node.v.clone()
    functional.reset_net(node)
    assert node.v is None
    functional.set_step_mode(node, "m")
    half = torch.cat([node(x[: steps // 2]), node(x[steps // 2 :])])  # the state outlives a call
    assert int(half.sum()) > 0
    assert torch.equal(single, half)
    assert torch.equal(node.v, v_after)
    assert set(dict(node.named_memories())) == {"v", "u"}


def test_node_of_drawn_neurons_equals_the_functions() -> None:
    cells = draw_izhikevich(8, 2, generator=torch.Generator().manual_seed(0))
    node = IzhikevichNode.of(cells, step_mode="m").double()
    for name, value in zip(("a", "b", "c", "d", "bias"), cells.tensors().values(), strict=True):
        setattr(node, name, value)
    x = 6.0 * torch.rand(100, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v, u = cells.at_rest()
    spikes = []
    for step in x:
        s, v, u = cells.step(v, u, step + cells.bias)
        spikes.append(s)
    assert int(torch.stack(spikes).sum()) > 10
    assert torch.equal(node(x), torch.stack(spikes))
    capacitance = CapacitanceIzhikevichNode.of(nicola_clopath_neurons(3))
    assert capacitance.dt == 0.04
    assert capacitance.b.shape == (3,)
