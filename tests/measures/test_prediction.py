"""Measures of prediction by hand, on shapes made for the purpose, and where they are undefined."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.measures.adaptation import trials_to_adapt_probability, trials_to_adapt_timing
from plasticity_lightning.measures.prediction import (
    anticipation,
    linear_fit,
    off_time_activity,
    outcome_share,
    peak_amplitude,
    peak_time,
    prediction_object,
    timing_error,
    value_at,
)
from plasticity_lightning.measures.selectivity import mixed_selectivity, mixing_index, variance_shares
from plasticity_lightning.measures.subspaces import null_angles, principal_angles, random_directions

TIME = torch.arange(-100.0, 1200.0, 5.0)


def bump(at: float, height: float = 1.0, width: float = 100.0) -> torch.Tensor:
    """A triangle of this full width."""
    return (height * (1 - (TIME - at).abs() / (width / 2))).clamp(min=0)


def test_peak_timing_and_amplitude_of_a_bump():
    z = torch.stack([bump(300.0), bump(505.0, 0.5)])
    latency = torch.tensor([300.0, 500.0])
    assert peak_time(z, TIME).tolist() == [300.0, 505.0]
    assert timing_error(peak_time(z, TIME), latency).item() == 2.5
    assert peak_amplitude(z, TIME, latency).tolist() == [1.0, 0.5]


def test_timing_error_to_the_nearest_of_several_latencies():
    latencies = torch.tensor([[300.0, 700.0], [300.0, math.nan]])
    assert timing_error(torch.tensor([690.0, 320.0]), latencies).item() == 15.0


def test_a_flat_signal_has_no_peak():
    assert peak_time(torch.zeros(2, len(TIME)), TIME).isnan().all()
    assert timing_error(torch.tensor([math.nan]), torch.tensor([300.0])).isnan()
    assert timing_error(torch.empty(0), torch.empty(0)).isnan()  # no probe
    with pytest.raises(ValueError, match="no sample"):
        peak_time(bump(300.0), TIME, 5000, 6000)


def test_anticipation_is_the_rise_through_half_height():
    # a triangle of width 100 is above half its height from 25 ms before its peak
    assert anticipation(bump(300.0), TIME, torch.tensor(300.0)).item() == pytest.approx(25, abs=5)
    assert anticipation(bump(360.0), TIME, torch.tensor(300.0)).item() < 0  # reactive: it rises after the onset
    assert anticipation(torch.zeros(len(TIME)), TIME, torch.tensor(300.0)).isnan()


def test_off_time_activity_leaves_out_every_latency():
    z = bump(300.0) + bump(700.0, 0.6) + bump(900.0, 0.1)
    both, one = torch.tensor([300.0, 700.0]), torch.tensor([300.0, math.nan])
    assert off_time_activity(z, TIME, both).item() == pytest.approx(0.1)
    assert off_time_activity(z, TIME, one).item() == pytest.approx(0.6)
    assert off_time_activity(z, TIME, torch.tensor([500.0]), distance_ms=2000).isnan()


def test_value_at_is_the_last_sample_not_after():
    ramp = TIME.clone()
    assert value_at(ramp, TIME, torch.tensor(302.0)).item() == 300.0
    assert value_at(ramp, TIME, torch.tensor(-500.0)).isnan()


def test_prediction_object_is_the_product_of_positive_parts():
    p = prediction_object(torch.tensor([-1.0, 2.0]), torch.tensor([[3.0, 3.0], [-3.0, 0.5]]))
    assert p.tolist() == [[0.0, 6.0], [0.0, 1.0]]


def test_shares():
    share = outcome_share(torch.tensor([[0.6, 0.2], [-1.0, 2.0], [0.0, 0.0]]))
    assert share[:2].tolist() == [pytest.approx([0.75, 0.25]), [0.0, 1.0]]
    assert share[2].isnan().all()


@given(slope=st.floats(-3, 3).filter(lambda s: abs(s) > 1e-3), intercept=st.floats(-2, 2))
def test_a_line_is_found(slope, intercept):
    x = torch.tensor([0.8, 0.2, 0.5, 0.5, math.nan])
    fit = linear_fit(x, slope * x + intercept)
    assert fit.slope.item() == pytest.approx(slope, rel=1e-4, abs=1e-5)
    assert fit.intercept.item() == pytest.approx(intercept, abs=1e-4)
    assert fit.r.item() == pytest.approx(math.copysign(1, slope))


def test_a_fit_to_nothing_that_varies_is_nan():
    assert linear_fit(torch.ones(3), torch.rand(3)).slope.isnan()  # one outcome only: p = 1 everywhere
    assert linear_fit(torch.tensor([0.0, 1.0]), torch.zeros(2)).r.isnan()
    assert linear_fit(torch.empty(0), torch.empty(0)).r.isnan()


def test_adaptation_counts_trials_and_cannot_be_below_its_window():
    perfect = torch.zeros(20)
    assert trials_to_adapt_timing(perfect).item() == 5
    late = torch.tensor([300.0] * 4 + [10.0] * 10)  # the median of five is small once three of them are: trial 7
    assert trials_to_adapt_timing(late).item() == 7
    assert trials_to_adapt_timing(torch.full((9,), 300.0)).item() == math.inf
    assert trials_to_adapt_timing(torch.zeros(4)).item() == math.inf  # too few to tell
    assert trials_to_adapt_timing(torch.empty(0)).isnan()
    assert trials_to_adapt_timing(torch.full((9,), math.nan)).item() == math.inf


def test_adaptation_to_a_probability():
    # windows of 0.8 ... then 0.2: the mean of five is within 0.15 of 0.2 once at most one 0.8 is left: (0.8 + 4 * 0.2) / 5 = 0.32
    share = torch.tensor([0.8] * 6 + [0.2] * 10)
    assert trials_to_adapt_probability(share, torch.tensor(0.2)).item() == 10
    both = trials_to_adapt_probability(torch.stack([share, torch.full_like(share, math.nan)]), torch.tensor([0.2, 0.2]))
    assert both.tolist() == [10, math.inf]


def test_principal_angles_of_planes_by_hand():
    eye = torch.eye(3)
    assert principal_angles(eye[:1], eye[1:2]).tolist() == pytest.approx([90.0])
    diagonal = (eye[:1] + eye[1:2]) * 7  # scale does not matter
    assert principal_angles(eye[:1], diagonal).tolist() == pytest.approx([45.0])
    assert principal_angles(eye[:2], eye[[0, 2]]).tolist() == pytest.approx([0.0, 90.0])


def test_covariance_turns_weights_into_signals():
    # orthogonal weights e1 and e1 + e2 under C = diag(1, 9): cos = 1 / sqrt(1 * 10)
    c, a, b = torch.diag(torch.tensor([1.0, 9.0])), torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert principal_angles(a, b, c).item() == pytest.approx(math.degrees(math.acos(1 / math.sqrt(10))))
    assert principal_angles(a, b, torch.zeros(2, 2)).isnan().all()
    assert principal_angles(torch.zeros(1, 2), b).isnan().all()


@given(seed=st.integers(0, 50))
def test_functional_angles_are_those_after_the_root_of_the_covariance(seed):
    g = torch.Generator().manual_seed(seed)
    a, b, x = (torch.randn(r, 6, generator=g, dtype=torch.float64) for r in (2, 3, 20))
    c = x.T @ x / 20
    values, vectors = torch.linalg.eigh(c)
    root = (vectors * values.sqrt()) @ vectors.T
    assert torch.allclose(principal_angles(a, b, c), principal_angles(a @ root, b @ root), atol=1e-6)


@given(seed=st.integers(0, 50), weighted=st.booleans())
def test_angles_to_many_directions_are_those_to_each(seed, weighted):
    g = torch.Generator().manual_seed(seed)
    a, many, x = (torch.randn(r, 6, generator=g, dtype=torch.float64) for r in (2, 5, 20))
    c = x.T @ x / 20 if weighted else None
    one_by_one = torch.stack([principal_angles(a, direction[None], c)[0] for direction in many])
    assert torch.allclose(null_angles(a, many, c), one_by_one, atol=1e-6)
    assert null_angles(a, torch.zeros(1, 6), c).isnan().all()
    assert null_angles(torch.zeros(1, 6), many, c).isnan().all()


def test_nulls():
    g = torch.Generator().manual_seed(0)
    isotropic = random_directions("isotropic", 400, 200, g)
    # one random direction against another in N dimensions: |cos| is about sqrt(2 / (pi N))
    angles = null_angles(torch.ones(1, 200), isotropic)
    expected = math.degrees(math.acos(math.sqrt(2 / (math.pi * 200))))
    assert angles.mean().item() == pytest.approx(expected, abs=0.5)
    c = torch.diag(torch.tensor([4.0, 0.0]))
    along = random_directions("covariance", 50, 2, g, covariance=c)
    assert along[:, 1].abs().max().item() < 1e-9
    assert along[:, 0].std().item() == pytest.approx(2.0, rel=0.3)
    states = torch.arange(6.0).reshape(3, 2)
    assert {tuple(s) for s in random_directions("states", 30, 2, g, states=states).tolist()} == {
        (0.0, 1.0),
        (2.0, 3.0),
        (4.0, 5.0),
    }
    for bad in ({"kind": "other"}, {"kind": "states"}, {"kind": "covariance"}):
        with pytest.raises(ValueError, match="kind"):
            random_directions(**bad, count=1, n_neurons=2, generator=g)


def selective(n: int = 40):
    """Four neurons: time only, cue only, their product, silent."""
    cue = torch.arange(n) % 2
    t = torch.linspace(-1, 1, 10)[None, :].expand(n, -1)
    c = (2.0 * cue - 1)[:, None].expand(-1, 10)
    rates = torch.stack([t, c, t * c, torch.zeros_like(t)], -1)
    noise = 0.1 * torch.randn(rates.shape, generator=torch.Generator().manual_seed(0))
    noise[..., 3] = 0
    return rates + noise, cue


def test_variance_is_split_into_time_cue_and_both():
    shares = variance_shares(*selective())
    table = torch.stack(shares)
    assert table[:, :3].argmax(0).tolist() == [0, 1, 2]
    assert (table[:, :3].max(0).values > 0.95).all()
    assert table[:, :3].sum(0).tolist() == pytest.approx([1.0] * 3)
    assert table[:, 3].isnan().all()


def test_only_the_product_neuron_is_mixed():
    rates, cue = selective()
    mixed = mixed_selectivity(rates, cue, torch.Generator().manual_seed(1))
    assert mixed[2]
    assert not mixed[3]
    with pytest.raises(ValueError, match="at least 2"):
        variance_shares(rates, torch.zeros_like(cue))
    with pytest.raises(ValueError, match="permutations"):
        mixed_selectivity(rates, cue, torch.Generator(), permutations=0)


def test_mixing_index():
    assert mixing_index(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])).tolist() == [1.0, 1.0]
    assert mixing_index(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])).tolist() == [0.0, 0.0]


def test_value_at_broadcasts_signals_and_times():
    z = torch.stack([TIME, 2 * TIME])[None, None]  # [1 lane, 1, 2 readouts, T]
    at = torch.tensor([[[300.0], [500.0], [math.nan]]])  # [1, 3 latencies, 1]
    assert value_at(z, TIME, at)[0, :2].tolist() == [[300.0, 600.0], [500.0, 1000.0]]
    assert value_at(z, TIME, at)[0, 2].isnan().all()
