"""Norms of weights: by hand, by torch.linalg, and their invariants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.measures.weights import (
    distance_from_init,
    spectral_norm,
    update_ratio,
    weight_norm,
    weight_rms,
)

seeds = st.integers(0, 10_000)


def rand(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_norms_by_hand():
    w = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert weight_norm(w) == 5.0
    assert weight_rms(w) == 2.5  # sqrt(25 / 4)
    living = w != 0
    assert weight_norm(w, living) == 5.0
    assert weight_rms(w, living) == pytest.approx(12.5**0.5)  # sqrt(25 / 2): sparsity does not shrink it
    assert weight_rms(w, torch.zeros(2, 2, dtype=torch.bool)).isnan()
    assert weight_norm(w, torch.zeros(2, 2, dtype=torch.bool)) == 0.0
    with pytest.raises(ValueError, match=r"weight's shape \(2, 2\)"):
        weight_norm(w, torch.ones(4, dtype=torch.bool))


def test_distances_by_hand():
    w0 = torch.tensor([3.0, 4.0])
    assert distance_from_init(torch.tensor([3.0, 9.0]), w0) == 1.0  # |(0, 5)| / 5
    assert distance_from_init(w0, w0) == 0.0
    zero = torch.zeros(2)
    assert distance_from_init(zero, zero) == 0.0
    assert distance_from_init(w0, zero).isinf()
    assert distance_from_init(torch.tensor([torch.nan, 1.0]), w0).isnan()
    assert update_ratio(before=w0, after=torch.tensor([3.0, 4.5])) == pytest.approx(0.1)  # 0.5 / 5
    with pytest.raises(ValueError, match="shapes must agree"):
        update_ratio(w0, torch.zeros(3))


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1e3))
def test_norms_scale_and_ratios_do_not(seed, scale):
    w, w0 = rand(seed, 4, 3), rand(seed + 1, 4, 3)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    assert weight_norm(scale * w) == pytest.approx(scale * float(weight_norm(w)), rel=1e-5)
    assert weight_rms(w) == pytest.approx(float(weight_norm(w)) / 12**0.5, rel=1e-6)
    assert weight_norm(w[order]) == pytest.approx(float(weight_norm(w)), rel=1e-6)
    assert distance_from_init(scale * w, scale * w0) == pytest.approx(float(distance_from_init(w, w0)), rel=1e-4)


def test_half_precision_does_not_overflow():
    w = torch.full((300, 300), 300.0, dtype=torch.float16)  # the sum of squares is 8.1e9, above 65504
    assert weight_norm(w) == pytest.approx(90_000.0, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 7), st.integers(1, 7))
def test_the_spectral_norm_converges_from_below_to_the_exact_one(seed, rows, columns):
    w = rand(seed, rows, columns).double()
    exact = float(torch.linalg.matrix_norm(w, 2))
    vector, before = None, 0.0
    for _ in range(4):
        sigma, vector = spectral_norm(w, vector)
        assert before * (1 - 1e-9) <= float(sigma) <= exact * (1 + 1e-9)
        before = float(sigma)
    sigma, _ = spectral_norm(w, vector, steps=2000)
    assert sigma == pytest.approx(exact, rel=1e-4)


def test_the_spectral_norm_of_a_diagonal_a_kernel_and_zero():
    sigma, vector = spectral_norm(torch.diag(torch.tensor([1.0, 3.0, 2.0])), steps=50)
    assert sigma == pytest.approx(3.0)
    assert vector.abs().tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    kernel = rand(3, 4, 2, 3, 3)
    sigma, vector = spectral_norm(kernel, steps=200)
    assert vector.shape == (18,)
    assert sigma == pytest.approx(float(torch.linalg.matrix_norm(kernel.flatten(1), 2)), rel=1e-5)
    sigma, vector = spectral_norm(torch.zeros(2, 3))
    assert sigma == 0.0
    assert vector.norm() == pytest.approx(1.0)


def test_the_warm_start_makes_two_steps_enough():
    w = rand(1, 30, 20)
    exact = float(torch.linalg.matrix_norm(w, 2))
    cold, _ = spectral_norm(w, steps=2)
    vector = None
    for _ in range(60):
        warm, vector = spectral_norm(w, vector, steps=2)
    assert abs(warm - exact) < 1e-3 * exact < abs(cold - exact)


def test_the_spectral_norm_refuses_what_is_not_a_matrix():
    with pytest.raises(ValueError, match=r"\[out, in"):
        spectral_norm(torch.ones(3))
    with pytest.raises(ValueError, match=r"vector must be \[2\]"):
        spectral_norm(torch.ones(3, 2), torch.ones(3))
    with pytest.raises(ValueError, match="steps=0"):
        spectral_norm(torch.ones(3, 2), steps=0)
