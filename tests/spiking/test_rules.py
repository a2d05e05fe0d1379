"""The plasticity rules, by numbers computed by hand: signs of the table, gates, traces, bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.spiking.rules import (
    APSTDP,
    STDP,
    ap_gates,
    calcium_step,
    gated_change,
    pair_terms,
    spike_rates,
    stdp_terms,
    trace_step,
    weight_bounds,
)

VALUES = st.floats(-4, 4, allow_nan=False)


def test_the_trace_takes_up_a_spike_and_decays() -> None:
    rule = STDP(trace_decay=0.5, trace_increment=0.2)
    # 0.5 * (0.4 + 0) = 0.2 and 0.5 * (0.4 + 0.2) = 0.3
    torch.testing.assert_close(
        trace_step(torch.full((2,), 0.4), torch.tensor([0.0, 1.0]), rule), torch.tensor([0.2, 0.3])
    )


def test_the_astrocytes_rate_scales_depression_of_excitatory_and_strengthening_of_inhibitory_synapses() -> None:
    assert spike_rates(False, 0.2, 0.3) == (0.2, -0.3)
    assert spike_rates(True, 0.2, 0.3) == (-0.3, 0.2)
    # source trace 2, target trace 5, both fire: 0.2 * 2 and -0.3 * 5; inhibitory -0.3 * 2 and 0.2 * 5
    one = torch.ones(2)
    at_target, at_source = stdp_terms(one, one, 2 * one, 5 * one, torch.tensor([False, True]), 0.2, 0.3)
    torch.testing.assert_close(at_target, torch.tensor([0.4, -0.6]))
    torch.testing.assert_close(at_source, torch.tensor([-1.5, 1.0]))


@pytest.mark.parametrize(
    ("source", "target", "expected"), [(0, 0, (0.0, 0.0)), (0, 1, (0.4, 0.0)), (1, 0, (0.0, -1.5))]
)
def test_each_term_belongs_to_its_spike(source: int, target: int, expected: tuple[float, float]) -> None:
    assert pair_terms(source, target, 2.0, 5.0, 0.2, -0.3) == pytest.approx(expected)


@given(VALUES, VALUES, st.booleans(), st.booleans())
def test_gates_let_the_positive_and_the_negative_parts_through(a: float, b: float, up: bool, down: bool) -> None:
    expected = up * (max(a, 0) + max(b, 0)) + down * (min(a, 0) + min(b, 0))
    assert gated_change(a, b, up, down) == expected
    tensor = gated_change(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), up, down)
    assert float(tensor) == expected


def test_calcium_counts_spikes_and_leaks() -> None:
    # 20 - 20 / 100 + 1
    assert calcium_step(20.0, 1.0, APSTDP(tau_calcium=100.0)) == pytest.approx(20.8)


def test_the_windows_of_ap_stdp_are_open_intervals_around_theta() -> None:
    up, down = ap_gates(torch.tensor([6.0, 7.0, 8.0, 10.0, 11.0, 13.0, 14.0]), APSTDP(theta=10.0, delta=3.0))
    assert down.tolist() == [False, False, True, False, False, False, False]
    assert up.tolist() == [False, False, False, False, True, False, False]


def test_bounds_keep_the_sign_of_liquid_synapses_and_let_input_synapses_change_theirs() -> None:
    # two excitatory and one inhibitory neuron, two channels
    low, high = weight_bounds(3, 2, 2, 1.5)
    assert low.tolist() == [0.0, 0.0, -1.5, -1.5, -1.5]
    assert high.tolist() == [1.5, 1.5, 0.0, 1.5, 1.5]
