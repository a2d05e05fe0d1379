"""The back ends of the reservoir agree bit for bit, in one call or several, alone or beside other lanes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.spiking.izhikevich_populations import NeuronSpread
from plasticity_lightning.spiking.reservoir import (
    ClosedLoop,
    Drive,
    LoopState,
    Reservoir,
    ReservoirActivity,
    ReservoirOptions,
    ReservoirState,
    Trace,
    draw_reservoir,
    engine,
    initial_state,
    join_lanes,
    nicola_clopath_reservoir,
)
from plasticity_lightning.spiking.reservoir.contract import check_simulation
from plasticity_lightning.spiking.reservoir.noise import normal_table, standard_normal

BACK_ENDS = ["cpu"]


def small(seed: int = 0, n_lanes: int = 2, n: int = 23, **options: object) -> Reservoir:
    generator = torch.Generator().manual_seed(seed)
    wanted = ReservoirOptions(**{"n_neurons": n, "n_channels": 2, "connection_probability": 0.3, **options})
    return join_lanes([draw_reservoir(wanted, generator=generator) for _ in range(n_lanes)])


def chaotic(seed: int = 0, n: int = 30, n_lanes: int = 1) -> Reservoir:
    generator = torch.Generator().manual_seed(seed)
    return join_lanes([nicola_clopath_reservoir(n, generator=generator) for _ in range(n_lanes)])


def scattered(reservoir: Reservoir) -> torch.Tensor:
    """Potentials to start from, between rest and peak."""
    generator = torch.Generator().manual_seed(1)
    return -60.0 + 90.0 * torch.rand(reservoir.n_lanes, reservoir.n_neurons, dtype=torch.float64, generator=generator)


def stimuli(n_lanes: int, n_steps: int = 120) -> Drive:
    return Drive.intervals(n_steps, 2, [[(0, 10, 60), (1, 40 + lane, 90, 0.7)] for lane in range(n_lanes)])


def assert_equal_states(actual: ReservoirState, expected: ReservoirState) -> None:
    for name, value in vars(expected).items():
        if name != "loop":
            assert torch.equal(getattr(actual, name), value), name
    if expected.loop is not None:
        for name, value in vars(expected.loop).items():
            if value is not None:
                assert torch.equal(getattr(actual.loop, name), value), name


def assert_equal_activity(actual: ReservoirActivity, expected: ReservoirActivity) -> None:
    for name, value in vars(expected).items():
        if value is not None:
            assert torch.equal(getattr(actual, name), value), name


def assert_same(
    back_end: str, reservoir: Reservoir, drive: Drive, state: ReservoirState, **arguments: object
) -> ReservoirActivity:
    expected, after = engine("reference")(reservoir, drive, state, record=True, **arguments)
    actual, after_fast = engine(back_end)(reservoir, drive, state, record=True, **arguments)
    assert int(expected.counts.sum()) > 20, "a silent reservoir compares nothing"
    assert_equal_activity(actual, expected)
    assert_equal_states(after_fast, after)
    return expected


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gain_excitatory": 0.0, "gain_inhibitory": 0.0},
        {"gain_excitatory": 60.0, "noise": 1.0},
        {"noise": 0.0},
        {"connection_probability": 0.0},
        {"connection_probability": 1.0},
        {"excitatory_fraction": 0.0, "spread": NeuronSpread(bias_inhibitory=(4.0, 9.0))},
        {"excitatory_fraction": 1.0},
        {"spread": NeuronSpread(homogeneous=True)},
    ],
    ids=str,
)
def test_back_ends_equal_the_reference(back_end: str, options: dict) -> None:
    reservoir = small(**options)
    assert_same(back_end, reservoir, stimuli(2), initial_state(reservoir, [3, 4]))


@pytest.mark.parametrize("back_end", BACK_ENDS)
@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    n_lanes=st.integers(1, 3),
    gain=st.floats(0, 100),
    noise=st.floats(0, 3),
)
def test_back_ends_equal_the_reference_on_random_networks(
    back_end: str, seed: int, n: int, n_lanes: int, gain: float, noise: float
) -> None:
    reservoir = small(seed, n_lanes, n, gain_excitatory=gain, gain_inhibitory=gain / 2, noise=noise)
    state = initial_state(reservoir, range(seed, seed + n_lanes))
    drive = stimuli(n_lanes, 100)
    expected, after = engine("reference")(reservoir, drive, state, record=True)
    actual, after_fast = engine(back_end)(reservoir, drive, state, record=True)
    assert_equal_activity(actual, expected)
    assert_equal_states(after_fast, after)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_capacitance_form_equals_the_reference(back_end: str) -> None:
    reservoir = chaotic(n_lanes=2)
    drive = Drive.intervals(1500, 0, [[], []])
    assert_same(
        back_end,
        reservoir,
        drive,
        initial_state(reservoir, [0, 1], v=scattered(reservoir)),
        trace=Trace(2.0, 20.0, 4.0),
    )


def looped(
    reservoir: Reservoir, n_outputs: int, n_steps: int, learns: bool, **options: object
) -> tuple[ClosedLoop, LoopState]:
    generator = torch.Generator().manual_seed(7)
    shape = (reservoir.n_lanes, reservoir.n_neurons, n_outputs)
    encoder = 200.0 * (2.0 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1.0)
    decoder = 1e-3 * torch.randn(shape, dtype=torch.float64, generator=generator).mT.contiguous()
    time = torch.arange(n_steps, dtype=torch.float64)[None, :, None]
    target = torch.sin(time / 300.0).expand(reservoir.n_lanes, n_steps, n_outputs).contiguous() if learns else None
    identity = torch.eye(reservoir.n_neurons, dtype=torch.float64).expand(reservoir.n_lanes, -1, -1) * 1e-4
    output = torch.zeros(reservoir.n_lanes, n_outputs, dtype=torch.float64)
    return ClosedLoop(encoder, target, **options), LoopState(decoder, identity if learns else None, output)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(
    ("learns", "options"),
    [
        (False, {}),
        (True, {"period": 25}),
        (True, {"period": 10, "stale_gain": True}),
        (True, {"period": 10, "forgetting": 0.99}),
    ],
    ids=str,
)
def test_closed_loops_equal_the_reference(back_end: str, learns: bool, options: dict) -> None:
    reservoir = chaotic(n=17, n_lanes=2)
    loop, readouts = looped(reservoir, 2, 1000, learns, **options)
    if learns:
        loop = replace(loop, learn=(torch.arange(1000) < 800).expand(2, -1))
    state = initial_state(reservoir, [0, 1], v=scattered(reservoir), loop=readouts)
    arguments = {"trace": Trace(2.0, 20.0, 4.0), "loop": loop}
    activity = assert_same(back_end, reservoir, Drive.intervals(1000, 0, [[], []]), state, **arguments)
    assert float(activity.output.abs().max()) > 0


@pytest.mark.parametrize("back_end", ["reference", *BACK_ENDS])
def test_cutting_a_call_in_two_changes_nothing(back_end: str) -> None:
    reservoir = small()
    state = initial_state(reservoir, [3, 4])
    level = torch.zeros(2, 100, 2)
    level[:, 20:70, 0] = 1.0
    whole, after = engine(back_end)(reservoir, Drive.dense(level), state, record=True)
    first, middle = engine(back_end)(reservoir, Drive.dense(level[:, :35]), state, record=True)
    second, after_two = engine(back_end)(reservoir, Drive.dense(level[:, 35:]), middle, record=True)
    assert torch.equal(torch.cat([first.spikes, second.spikes], 1), whole.spikes)
    assert torch.equal(torch.cat([first.trace, second.trace], 1), whole.trace)
    assert_equal_states(after_two, after)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_cutting_a_closed_loop_in_two_changes_nothing(back_end: str) -> None:
    reservoir = chaotic(n=17)
    loop, readouts = looped(reservoir, 1, 1000, True, period=30)
    state, trace = initial_state(reservoir, [0], v=scattered(reservoir), loop=readouts), Trace(2.0, 20.0, 4.0)
    run = engine(back_end)
    whole, after = run(reservoir, Drive.intervals(1000, 0, [[]]), state, trace=trace, loop=loop)
    parts = []
    for n_steps, target in ((400, loop.target[:, :400]), (600, loop.target[:, 400:])):
        part = replace(loop, target=target)
        activity, state = run(reservoir, Drive.intervals(n_steps, 0, [[]]), state, trace=trace, loop=part)
        parts.append(activity.output)
    assert torch.equal(torch.cat(parts, 1), whole.output)
    assert_equal_states(state, after)


@pytest.mark.parametrize("back_end", ["reference", *BACK_ENDS])
def test_a_lane_is_the_same_alone_and_beside_others_of_other_lengths(back_end: str) -> None:
    reservoir = small(n_lanes=3)
    seeds, lengths = [5, 6, 7], [100, 60, 80]
    intervals = [[(0, 10, 60)], [(1, 0, 30)], [(0, 5, 8), (1, 70, 200)]]
    together, after = engine(back_end)(
        reservoir, Drive.intervals(lengths, 2, intervals), initial_state(reservoir, seeds), record=True, threads=3
    )
    for lane, length in enumerate(lengths):
        alone_in = reservoir.lanes(lane, lane + 1)
        alone, after_alone = engine(back_end)(
            alone_in,
            Drive.intervals(length, 2, intervals[lane : lane + 1]),
            initial_state(alone_in, seeds[lane : lane + 1]),
            record=True,
        )
        assert int(alone.counts.sum()) > 0
        assert torch.equal(together.spikes[lane, :length], alone.spikes[0])
        assert torch.equal(together.trace[lane, : length // 5], alone.trace[0])
        assert not together.spikes[lane, length:].any()
        assert torch.equal(after.v[lane], after_alone.v[0])
        assert int(after.step[lane]) == length


@pytest.mark.parametrize("back_end", ["reference", *BACK_ENDS])
def test_a_call_leaves_the_given_state_alone(back_end: str) -> None:
    reservoir = small()
    state = initial_state(reservoir, [3, 4])
    before = {name: value.clone() for name, value in vars(state).items() if name != "loop"}
    engine(back_end)(reservoir, stimuli(2), state)
    assert all(torch.equal(getattr(state, name), value) for name, value in before.items())


@pytest.mark.parametrize("back_end", ["reference", *BACK_ENDS])
def test_a_silent_reservoir_gives_zeros(back_end: str) -> None:
    quiet = NeuronSpread(bias_excitatory=(0.0, 0.0), bias_inhibitory=(0.0, 0.0))
    reservoir = small(spread=quiet, noise=0.0)
    state = initial_state(reservoir, [0, 1])
    activity, after = engine(back_end)(reservoir, Drive.intervals(500, 2, [[], []]), state, record=True)
    assert not activity.counts.any()
    assert not activity.trace.any()
    assert bool(torch.isfinite(after.v).all())


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_decaying_currents_end_at_zero_not_among_subnormal_numbers(back_end: str) -> None:
    quiet = NeuronSpread(bias_excitatory=(0.0, 0.0), bias_inhibitory=(0.0, 0.0))
    reservoir = small(spread=quiet, noise=0.0)
    run = engine(back_end)
    loud, state = run(
        reservoir, Drive.intervals(100, 2, [[(0, 0, 100)], [(0, 0, 100)]]), initial_state(reservoir, [0, 1])
    )
    assert int(loud.counts.sum()) > 0
    _, state = run(reservoir, Drive.intervals(30_000, 2, [[], []]), state)
    for name in ("first", "second", "inhibitory", "rising", "decaying"):
        assert not getattr(state, name).any(), name


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    z = standard_normal(torch.tensor([1, 2]), torch.tensor([5, 5]), 200_000)
    assert z.mean().abs() < 0.005
    assert abs(float(z.std()) - 1.0) < 0.005
    assert abs(float((z**4).mean()) - 3.0) < 0.06
    later = standard_normal(torch.tensor([1, 2]), torch.tensor([6, 6]), 200_000)
    for other in (z[1], later[0]):
        assert abs(float((z[0] * other).mean())) < 0.01  # standard error 0.002
    assert abs(float((z[0, :-1] * z[0, 1:]).mean())) < 0.01
    table = normal_table()
    assert float(table.sum().abs()) < 1e-9
    assert float(2 * table.square().mean()) == pytest.approx(1.0, abs=1e-12)


def test_check_names_what_does_not_fit() -> None:
    reservoir = small()
    state, drive = initial_state(reservoir, [0, 1]), stimuli(2)
    loop, readouts = looped(reservoir, 1, 120, True)
    cases = [
        ((reservoir, stimuli(1), state, Trace(), None), "drive has 1 lanes"),
        ((reservoir, Drive.intervals(120, 3, [[], []]), state, Trace(), None), "drive has 3 channels"),
        ((reservoir, Drive.intervals(122, 2, [[], []]), state, Trace(), None), "multiples of 5"),
        ((reservoir, drive, replace(state, v=state.v[:, 1:]), Trace(), None), "state.v must be float64"),
        ((reservoir, drive, replace(state, key=state.key.float()), Trace(), None), "state.key must be int64"),
        ((reservoir, drive, state, Trace(every=2.5), None), "whole number of time steps"),
        ((reservoir, drive, state, Trace(), loop), "needs both"),
        ((reservoir, drive, replace(state, loop=readouts), Trace(), None), "needs both"),
        ((reservoir, drive, replace(state, loop=replace(readouts, inverse=None)), Trace(), loop), "inverse"),
        (
            (reservoir, drive, replace(state, loop=readouts), Trace(), replace(loop, target=loop.target[:, 1:])),
            "target must be",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            check_simulation(*arguments)


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'cpu'"):
        engine("cpuu")
