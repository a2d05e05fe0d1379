"""Drawn reservoirs and drives: statistics, layout, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.spiking.izhikevich_populations import NeuronSpread
from plasticity_lightning.spiking.reservoir import (
    ClosedLoop,
    DoubleExponential,
    Drive,
    Reservoir,
    ReservoirOptions,
    SplitExponentials,
    Trace,
    draw_reservoir,
    initial_state,
    join_lanes,
    nicola_clopath_reservoir,
)


def drawn(seed: int = 0, **options: object) -> Reservoir:
    return draw_reservoir(ReservoirOptions(**options), generator=torch.Generator().manual_seed(seed))


def test_weights_are_balanced_sparse_and_lognormal() -> None:
    reservoir = drawn()
    weight = reservoir.dense(0)  # row = target
    n, n_excitatory = 800, 640
    assert not weight.diagonal().any()
    assert float((weight != 0).double().mean()) == pytest.approx(0.1, abs=0.003)
    assert bool((weight[:, :n_excitatory] >= 0).all())
    assert bool((weight[:, n_excitatory:] <= 0).all())
    excitatory, inhibitory = weight[:, :n_excitatory], weight[:, n_excitatory:]
    # J_E = 10 * 7 / (0.8 * 0.1 * 800) = 1.09375 and J_I = -10 * 3.5 / (0.2 * 0.1 * 800) = -2.1875, times magnitudes of mean 1
    assert float(excitatory[excitatory != 0].mean()) == pytest.approx(1.09375, rel=0.02)
    assert float(inhibitory[inhibitory != 0].mean()) == pytest.approx(-2.1875, rel=0.02)
    logs = (excitatory[excitatory != 0] / 1.09375).log()
    assert float(logs.std()) == pytest.approx(0.5, rel=0.02)
    assert float(logs.mean()) == pytest.approx(-0.125, abs=0.01)
    assert float(weight.sum(1).mean() / n) == pytest.approx((70 - 35) / n, abs=0.01)


def test_channels_reach_all_neurons_with_mixed_signs() -> None:
    channels = drawn(n_channels=6).channels
    assert channels.shape == (1, 6, 800)
    assert float(channels.abs().min()) >= 25 * 0.3
    assert float(channels.abs().max()) <= 25
    assert float((channels > 0).double().mean()) == pytest.approx(0.8, abs=0.02)


def test_the_same_seed_draws_the_same_reservoir() -> None:
    one, two, other = drawn(3), drawn(3), drawn(4)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.channels, two.channels)
    assert torch.equal(one.neurons.a, two.neurons.a)
    assert not torch.equal(one.neurons.a, other.neurons.a)


def test_lanes_join_and_come_apart() -> None:
    parts = [drawn(seed, n_neurons=30, n_channels=2) for seed in range(3)]
    joined = join_lanes(parts)
    assert joined.n_lanes == 3
    for lane, part in enumerate(parts):
        again = joined.lanes(lane, lane + 1)
        assert torch.equal(again.dense(0), part.dense(0))
        assert torch.equal(joined.dense(lane), part.dense(0))
        assert torch.equal(again.neurons.bias, part.neurons.bias)
        assert torch.equal(again.channels, part.channels)
    assert torch.equal(join_lanes([joined.lanes(0, 2), joined.lanes(2, 3)]).weight, joined.weight)
    with pytest.raises(ValueError, match="different kinds"):
        join_lanes([parts[0], drawn(n_neurons=31)])
    with pytest.raises(ValueError, match="empty"):
        join_lanes([])
    with pytest.raises(ValueError, match="must lie in"):
        joined.lanes(2, 4)


def test_nicola_clopath_weights() -> None:
    reservoir = nicola_clopath_reservoir(400, generator=torch.Generator().manual_seed(0))
    weight = reservoir.dense(0)
    # standard deviation 5e3 / (0.1 * sqrt(400)) = 2500
    assert float(weight[weight != 0].std()) == pytest.approx(2500, rel=0.02)
    assert float((weight != 0).double().mean()) == pytest.approx(0.1, abs=0.005)
    assert reservoir.n_channels == 0
    assert reservoir.dt == 0.04


def test_reservoirs_without_a_kind_of_neuron_or_any_synapse_are_valid() -> None:
    for options in (
        {"excitatory_fraction": 0.0},
        {"excitatory_fraction": 1.0},
        {"connection_probability": 0.0},
        {"n_neurons": 1},
        {"n_channels": 0},
    ):
        assert bool(torch.isfinite(drawn(**{"n_neurons": 20, **options}).weight).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neurons": 0}, "n_neurons=0"),
        ({"n_channels": -1}, "n_channels=-1"),
        ({"connection_probability": 1.1}, "connection_probability=1.1"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"stimulus_low": 2.0}, "stimulus_low=2.0"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReservoirOptions(**options)


def test_bad_parts_are_refused() -> None:
    reservoir = drawn(n_neurons=10)
    for change, message in (
        ({"n_excitatory": 11}, "n_excitatory=11"),
        ({"target": reservoir.target.long()}, "target must be torch.int32"),
        ({"target": reservoir.target + 9}, "target must lie in"),
        ({"target": reservoir.target.flip(0)}, "ascending and distinct"),
        ({"offsets": reservoir.offsets + 1}, "offsets must run"),
        ({"noise": -reservoir.noise}, "noise must be at least 0"),
        ({"weight": reservoir.weight * float("nan")}, "must be finite"),
        ({"synapses": DoubleExponential()}, "set it to 10"),
        ({"channels": reservoir.channels[..., 1:]}, "channels must be"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(reservoir, **change)
    for make, message in (
        (lambda: SplitExponentials(fast=0.0), "fast=0.0"),
        (lambda: SplitExponentials(fast_fraction=1.5), "fast_fraction=1.5"),
        (lambda: DoubleExponential(rise=20.0, decay=2.0), "rise"),
        (lambda: Trace(rise=5.0, decay=5.0), "rise"),
        (lambda: Trace(every=0.0), "every=0.0"),
        (lambda: NeuronSpread(bias_excitatory=(5.0, 3.0)), "bias_excitatory"),
        (lambda: ClosedLoop(torch.zeros(1, 3, 2, dtype=torch.float64), period=0), "period=0"),
        (lambda: ClosedLoop(torch.zeros(1, 3, 2, dtype=torch.float64), forgetting=0.0), "forgetting=0.0"),
        (lambda: ClosedLoop(torch.zeros(1, 3, 2)), "encoder must be float64"),
        (lambda: ClosedLoop(torch.zeros(1, 3, 2, dtype=torch.float64), learn=torch.ones(1, 3)), "no target"),
        (lambda: initial_state(reservoir, [1, 2]), "2 entries for 1 lanes"),
        (lambda: initial_state(reservoir, [1], v=torch.zeros(1, 3)), "v has shape"),
        (
            lambda: nicola_clopath_reservoir(5, connection_probability=0.0, generator=torch.Generator()),
            "connection_prob",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_filters_deliver_the_charge() -> None:
    # the sum over time of the current that one unit of charge brings, in steps of dt, is close to the charge
    for filters, dt in ((SplitExponentials(), 0.01), (DoubleExponential(), 0.01)):
        d1, k1, d2, k2, d3, k3 = filters.coefficients(dt)
        assert dt * (k1 / (1 - d1) + k2 / (1 - d2)) == pytest.approx(1.0, rel=2e-3)
        if isinstance(filters, SplitExponentials):
            assert dt * k3 / (1 - d3) == pytest.approx(1.0, rel=2e-3)
    # a trace of a train of f Hz averages f
    rise, decay, scale = Trace().coefficients(1.0)
    assert scale * (1 / (1 - decay) - 1 / (1 - rise)) == pytest.approx(1000.0, rel=1e-3)


@given(
    intervals=st.lists(
        st.tuples(st.integers(0, 2), st.integers(-5, 45), st.integers(0, 30), st.floats(-2, 2)), max_size=6
    )
)
def test_intervals_equal_a_dense_drive(intervals: list[tuple[int, int, int, float]]) -> None:
    given_intervals = [(c, start, start + length, level) for c, start, length, level in intervals]
    dense = torch.zeros(1, 40, 3, dtype=torch.float64)
    for c, start, stop, level in given_intervals:
        for t in range(max(start, 0), min(stop, 40)):
            dense[0, t, c] += level
    drive = Drive.intervals(40, 3, [given_intervals])
    unrolled = torch.zeros(1, 40, 3, dtype=torch.float64)
    for step, level in zip(drive.step.tolist(), drive.level, strict=True):
        unrolled[0, step:] = level
    torch.testing.assert_close(unrolled, dense, rtol=0, atol=0)
    from_dense = Drive.dense(dense)
    again = torch.zeros_like(dense)
    for step, level in zip(from_dense.step.tolist(), from_dense.level, strict=True):
        again[0, step:] = level
    assert torch.equal(again, dense)


def test_bad_drives_are_refused() -> None:
    for make, message in (
        (lambda: Drive.intervals(0, 1, [[]]), "at least 1"),
        (lambda: Drive.intervals([5, 6], 1, [[]]), "2 entries for 1 lanes"),
        (lambda: Drive.intervals(5, 1, [[(1, 0, 2)]]), "channel 1"),
        (lambda: Drive.intervals(5, 1, [[(0, 3, 2)]]), "ends before it starts"),
        (lambda: Drive.intervals(5, 1, [[(0, 0, 2, float("nan"))]]), "finite"),
        (lambda: Drive.dense(torch.zeros(3, 2)), "must be"),
        (lambda: replace(Drive.intervals(5, 1, [[(0, 0, 2)]]), step=torch.tensor([2, 0])), "ascending"),
        (lambda: replace(Drive.intervals(5, 1, [[(0, 0, 2)]]), step=torch.tensor([2, 5])), "inside its lane"),
        (lambda: replace(Drive.intervals(5, 1, [[(0, 0, 2)]]), offsets=torch.tensor([0, 1])), "offsets must run"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
