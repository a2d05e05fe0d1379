"""Homeostasis: moments against all samples at once, unit power, silence without NaN, resume."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.readouts.homeostasis import Homeostasis, deviation_scores, pooled_moments


@given(n=st.integers(1, 6), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_cumulative_moments_are_those_of_all_samples(n, seed):
    x = torch.randn(n, 2, 8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean, variance = torch.zeros(2, 3).double(), torch.zeros(2, 3).double()
    for k in range(n):
        mean, variance = pooled_moments(mean, variance, x[k], 1 / (k + 1))
    samples = x.transpose(0, 1).reshape(2, n * 8, 3)
    assert torch.allclose(mean, samples.mean(1))
    assert torch.allclose(variance, samples.var(1, correction=0))


def test_scores_by_hand():
    # sd 1, floor 1: scores (4-0)/2 = 2 and (0-0)/2 = 0; less their mean: 1 and -1
    x, zero, one = torch.tensor([[[4.0, 0.0]]]), torch.zeros(1, 2), torch.ones(1, 2)
    assert deviation_scores(x, zero, one, 1.0).tolist() == [[[1.0, -1.0]]]
    assert deviation_scores(x, zero, one, 1.0, inhibition=False).tolist() == [[[2.0, 0.0]]]


@pytest.mark.parametrize("inhibition", [True, False])
def test_the_mean_squared_norm_is_one(inhibition):
    x = 20 + 5 * torch.randn(3, 400, 40, generator=torch.Generator().manual_seed(0))
    homeostasis = Homeostasis(3, 40, inhibition=inhibition)
    homeostasis.update(x)
    assert homeostasis(x).square().sum(2).mean(1).tolist() == pytest.approx([1.0] * 3, rel=1e-5)


def test_silence_gives_zero_and_never_nan():
    homeostasis = Homeostasis(2, 5)
    assert torch.equal(homeostasis(torch.ones(2, 4, 5)), torch.zeros(2, 4, 5))  # before anything was seen
    homeostasis.update(torch.zeros(2, 4, 5))
    assert torch.equal(homeostasis(torch.zeros(2, 4, 5)), torch.zeros(2, 4, 5))
    x = torch.zeros(2, 4, 5)
    x[0, :, 0] = torch.arange(4.0)  # one neuron of one lane is alive
    homeostasis.update(x)
    out = homeostasis(x)
    assert bool(out.isfinite().all())
    assert torch.equal(out[1], torch.zeros(4, 5))
    assert bool(out[0].abs().sum() > 0)


def test_a_running_average_forgets():
    homeostasis = Homeostasis(1, 2, tau=4.0)
    for level in [10.0] * 10 + [20.0] * 30:
        homeostasis.update(torch.full((1, 5, 2), level))
    # 30 trials of weight 1/4: what is left of the old level is 0.75^30 of the step of 10
    assert homeostasis.mean[0].tolist() == pytest.approx([20 - 10 * 0.75**30] * 2, rel=1e-6)


def test_lanes_are_independent_and_state_is_restored():
    x = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(1))
    both, single = Homeostasis(2, 3), Homeostasis(1, 3)
    both.update(x)
    single.update(x[1:])
    assert torch.equal(both(x)[1], single(x[1:])[0])
    other = Homeostasis(2, 3)
    other.load_state_dict(both.state_dict())
    other.update(x)
    both.update(x)
    assert torch.equal(other(x), both(x))


@pytest.mark.parametrize("arguments", [{"n_lanes": 0}, {"n_neurons": 0}, {"floor": 0.0}, {"tau": 0.5}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Homeostasis(**{"n_lanes": 1, "n_neurons": 2, **arguments})
