"""Ranks of features: spectra built by hand, invariants, numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.measures.rank import (
    effective_rank,
    feature_ranks,
    pca_rank,
    singular_values,
    srank,
    stable_rank,
)

RANKS = (srank, effective_rank, stable_rank, pca_rank)
seeds = st.integers(0, 10_000)


def features(seed: int, n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, d: int) -> torch.Tensor:
    return torch.linalg.qr(features(seed, d, d))[0]


def test_a_known_spectrum_by_hand():
    phi = torch.diag(torch.tensor([8.0, 4.0, 3.0, 1.0]))  # sum 16; squares 64, 16, 9, 1: sum 90
    assert srank(phi, delta=0.05) == 4  # 15/16 = 0.9375 < 0.95
    assert srank(phi, delta=0.0625) == 3  # exactly 0.9375: reached
    assert srank(phi, delta=0.3) == 2  # 12/16 = 0.75
    assert pca_rank(phi) == 4  # 89/90 = 0.98889 < 0.99
    assert pca_rank(phi, share=0.98) == 3
    assert stable_rank(phi) == pytest.approx(90 / 64)
    # entropy: -(.5 ln .5 + .25 ln .25 + .1875 ln .1875 + .0625 ln .0625) = 1.18031
    assert effective_rank(phi) == pytest.approx(np.exp(scipy.stats.entropy([0.5, 0.25, 0.1875, 0.0625])))
    assert effective_rank(phi) == pytest.approx(np.exp(1.18031), rel=1e-5)


@pytest.mark.parametrize("rank", RANKS)
def test_ranks_of_the_extremes(rank):
    assert rank(torch.eye(5)) == pytest.approx(5.0)
    assert rank(torch.ones(6, 4)) == pytest.approx(1.0, abs=1e-6)
    assert rank(torch.zeros(3, 4)) == 0.0
    assert rank(torch.tensor([[1.0, torch.nan]])).isnan()
    assert rank(torch.tensor([[1.0, torch.inf], [0.0, 1.0]])).isnan()


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_ranks_are_bounded_and_ignore_scale_rotation_and_order(seed, n, d, scale):
    phi = features(seed, n, d)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for rank in RANKS:
        value = float(rank(phi))
        assert 1 - 1e-9 <= value <= min(n, d) + 1e-6
        for changed in (scale * phi, phi[order], phi @ rotation(seed + 1, d)):
            assert float(rank(changed)) == pytest.approx(value, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_singular_values_equal_scipy_on_both_sides_of_square(seed, n, d, center):
    phi = features(seed, n, d)
    expected = scipy.linalg.svdvals((phi - phi.mean(0)).numpy() if center else phi.numpy())
    actual = singular_values(phi, center)
    assert actual.shape == expected.shape
    # the Gram matrix resolves about 1e-8 of the largest
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6, atol=1e-7 * max(expected[0], 1))
    assert (actual.diff() <= 1e-12).all()


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_one_decomposition_serves_all(seed):
    phi = features(seed, 6, 4)
    ranks = feature_ranks(phi, delta=0.2, share=0.9, center=True)
    s = singular_values(phi, center=True)
    assert ranks.srank == srank(phi, 0.2, center=True) == srank(s, 0.2)
    assert ranks.pca_rank == pca_rank(phi, 0.9, center=True) == pca_rank(s, 0.9)
    assert ranks.effective_rank == effective_rank(phi, center=True) == effective_rank(s)
    assert ranks.stable_rank == stable_rank(phi, center=True) == stable_rank(s)
    assert (ranks.n_samples, ranks.n_features, ranks.upper_bound) == (6, 4, 4)
    # stable rank never exceeds the effective rank here: both count directions, one by power
    assert ranks.stable_rank <= ranks.effective_rank + 1e-9


def test_centring_removes_the_common_mean():
    phi = features(0, 50, 3) * 0.01 + 5.0
    assert pca_rank(phi) == 1
    assert pca_rank(phi, center=True) == 3


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="delta=1"):
        srank(torch.eye(2), delta=1)
    with pytest.raises(ValueError, match="share=0"):
        pca_rank(torch.eye(2), share=0)
    with pytest.raises(ValueError, match=r"\[B, d\]"):
        effective_rank(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="center=True"):
        stable_rank(torch.ones(3), center=True)
