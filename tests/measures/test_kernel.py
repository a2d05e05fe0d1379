"""Kernel quality: ranks against numpy, rescaling by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.measures.kernel import (
    approximation_rank,
    balanced_draws,
    count_rank,
    kernel_quality,
    separation_rank,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 6))
def test_count_rank_equals_numpy_on_float32(seed, n_items, n_neurons, inner):
    left = torch.randint(0, 4, (n_items, inner), generator=seeded(seed))
    right = torch.randint(0, 4, (inner, n_neurons), generator=seeded(seed + 1))
    counts = left @ right
    expected = np.linalg.matrix_rank(counts.numpy().astype(np.float32))
    assert count_rank(counts) == expected <= min(n_items, n_neurons, inner)
    assert count_rank(counts.T) == expected
    assert count_rank(3 * counts) == expected


def test_separation_rank_of_identical_items_within_a_class_is_the_number_of_classes():
    counts = torch.eye(3)[[0, 1, 2] * 4] * 5
    labels = torch.arange(3).repeat(4)
    assert separation_rank(counts, labels, seeded(), per_class=2, draws=5) == 3.0
    assert approximation_rank(torch.ones(12, 3), labels, seeded(), per_class=2, draws=5) == 1.0


def test_separation_rank_averages_over_draws():
    # class 0: two equal items and one different; drawing 2 of 3 gives rank 1 with chance 1/3, else 2: mean 5/3
    counts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value = separation_rank(counts, torch.zeros(3), seeded(1), per_class=2, draws=2000)
    assert value == pytest.approx(5 / 3, abs=0.04)


def test_draws_are_balanced_reproducible_and_without_replacement():
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 1])
    draws = balanced_draws(labels, seeded(3), per_class=3, draws=4)
    for items in draws:
        assert len(set(items.tolist())) == 6
        assert labels[items].bincount().tolist() == [3, 3]
    again = balanced_draws(labels, seeded(3), per_class=3, draws=4)
    assert all(torch.equal(a, b) for a, b in zip(draws, again, strict=True))
    with pytest.raises(ValueError, match=r"1\.\.3"):
        balanced_draws(labels, seeded(), per_class=4, draws=1)


def test_kernel_quality_by_hand():
    # SP 10, 20, 30 -> 0, .5, 1; AP 5, 5, 10 -> 0, 0, 1; difference 0, .5, 0 -> 0, 1, 0
    quality = kernel_quality(torch.tensor([10.0, 20.0, 30.0]), torch.tensor([5.0, 5.0, 10.0]))
    assert quality.tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="approximation is 5"):
        kernel_quality(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 5.0]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-50, 50))
def test_kernel_quality_ignores_an_affine_change_of_either_rank(seed, scale, shift):
    separation = torch.rand(5, generator=seeded(seed), dtype=torch.float64)
    approximation = torch.rand(5, generator=seeded(seed + 1), dtype=torch.float64)
    quality = kernel_quality(separation, approximation)
    assert quality.min() == 0
    assert quality.max() == 1
    torch.testing.assert_close(kernel_quality(scale * separation + shift, approximation), quality)
