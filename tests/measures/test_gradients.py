"""Gradient measures: by hand, against torch's own, and invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from plasticity_lightning.measures.gradients import grad_direction, grad_norm, grad_sparsity

seeds = st.integers(0, 10_000)


def rand(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_norm_and_zeros_by_hand():
    gradients = [torch.tensor([[3.0, 0.0]]), None, torch.tensor([0.0, 4.0, 0.0])]
    assert grad_norm(gradients) == 5.0
    assert grad_sparsity(gradients) == 0.6  # 3 of 5
    masks = [torch.tensor([[True, False]]), None, torch.tensor([True, True, False])]
    assert grad_sparsity(gradients, masks) == pytest.approx(1 / 3)  # living: 3, 0, 4


def test_the_norm_is_that_of_torch_clipping():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    net(torch.randn(3, 4)).square().sum().backward()
    gradients = [p.grad for p in net.parameters()]
    expected = torch.nn.utils.clip_grad_norm_(net.parameters(), 1e9)
    assert grad_norm(gradients) == pytest.approx(float(expected), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1e3))
def test_scaling_a_loss_scales_the_norm_and_nothing_else(seed, scale):
    g, p = [rand(seed, 3, 4), rand(seed + 1, 5)], [rand(seed + 2, 3, 4), rand(seed + 3, 5)]
    g[0][0] = 0
    scaled = [scale * t for t in g]
    assert grad_norm(scaled) == pytest.approx(scale * float(grad_norm(g)), rel=1e-5)
    assert grad_sparsity(scaled) == grad_sparsity(g) == pytest.approx(4 / 17)
    a, b = grad_direction(g, grad_direction(p)), grad_direction(scaled, grad_direction(p))
    assert b.cosine == pytest.approx(float(a.cosine), abs=1e-6)
    assert b.flip_rate == a.flip_rate
    flat = [torch.cat([t.flatten() for t in side]) for side in (g, p)]
    assert a.cosine == pytest.approx(float(functional.cosine_similarity(*flat, dim=0)), abs=1e-6)
    assert -1 <= a.cosine <= 1
    assert 0 <= a.flip_rate <= 1


def test_direction_by_hand():
    state = grad_direction([torch.tensor([1.0, 0.0, 2.0])])
    assert state.cosine.isnan()
    # (1,0,2) -> (2,0,-1): dot 0; both non-zero in entries 0 and 2, one flips
    state = grad_direction([torch.tensor([2.0, 0.0, -1.0])], state, decay=0.5)
    assert state.cosine == 0.0
    assert state.flip_rate == 0.5
    # -> the same again: cosine 1, no flip. Weights: 0.5 * 0.5 for the first comparison, 0.5 for this one
    state = grad_direction([torch.tensor([2.0, 0.0, -1.0])], state, decay=0.5)
    assert state.cosine == pytest.approx(0.5 / 0.75)
    assert state.flip_rate == pytest.approx(0.25 * 0.5 / 0.75)
    state = grad_direction([torch.tensor([-2.0, 0.0, 1.0])], state, decay=0.0)
    assert state.cosine == pytest.approx(-1.0)
    assert state.flip_rate == 1.0


def test_a_zero_gradient_has_no_direction_and_an_overflow_is_left_out():
    state = grad_direction([torch.ones(3)])
    state = grad_direction([torch.ones(3)], state)
    assert state.cosine == pytest.approx(1.0)
    for bad in (math.inf, math.nan):
        after = grad_direction([torch.tensor([1.0, bad, 1.0])], state)
        assert after.cosine == state.cosine
        assert after.flip_rate == state.flip_rate
        again = grad_direction([torch.ones(3)], after)  # its predecessor is not finite either
        assert again.weight == state.weight
        assert grad_direction([torch.ones(3)], again).cosine == pytest.approx(1.0)
    zero = grad_direction([torch.zeros(3)], grad_direction([torch.ones(3)]))
    assert zero.cosine == 0.0
    assert zero.flip_rate == 0.0


def test_the_state_does_not_alias_the_gradient():
    gradient = torch.ones(2)
    state = grad_direction([gradient])
    gradient.neg_()  # as the next backward pass would overwrite it
    assert state.previous[0].tolist() == [1.0, 1.0]
    assert grad_direction([gradient], state).cosine == pytest.approx(-1.0)


def test_no_gradient_and_changed_parameters_are_refused():
    for measure in (grad_norm, grad_sparsity, grad_direction):
        with pytest.raises(ValueError, match="no gradient"):
            measure([None])
    with pytest.raises(ValueError, match="parameters changed"):
        grad_direction([torch.ones(3)], grad_direction([torch.ones(2)]))
    with pytest.raises(ValueError, match="decay=1"):
        grad_direction([torch.ones(3)], decay=1)
    with pytest.raises(ValueError, match="1 masks, 2 gradients"):
        grad_sparsity([torch.ones(1), torch.ones(1)], [None])
    with pytest.raises(ValueError, match="bool tensor"):
        grad_sparsity([torch.ones(2)], [torch.ones(2)])
