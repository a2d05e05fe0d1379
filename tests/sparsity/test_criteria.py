"""Criteria and growth by hand."""

from typing import get_args

import pytest
import torch

from plasticity_lightning.sparsity.criteria import (
    DROPS,
    SCORES,
    above_threshold,
    drop,
    drop_by_sign,
    grasp,
    score,
    snip,
)
from plasticity_lightning.sparsity.growth import GROWTH, grow, growth_score
from plasticity_lightning.sparsity.layer import Layer
from plasticity_lightning.sparsity.methods import DropName, GrowName, Method, ScoreName


def test_scores_by_hand():
    weight, gradient = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[3.0, 0.5, -4.0]])
    layer = Layer(weight, weight != 0, gradient)
    assert score("magnitude", layer).tolist() == [[1.0, 2.0, 0.5]]
    assert score("taylor", layer).tolist() == [[9.0, 1.0, 4.0]]
    assert snip(weight, gradient).tolist() == [[3.0, 1.0, 2.0]]


def test_grasp_keeps_the_weights_whose_removal_costs_gradient_flow():
    # L = (a w1^2 + b w2^2) / 2: g = (a w1, b w2), H g = (a^2 w1, b^2 w2); |g|^2 without w1 loses a^2 w1^2
    weight = torch.tensor([1.0, 1.0], requires_grad=True)
    loss = (torch.tensor([3.0, 1.0]) * weight**2).sum() / 2
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    (hessian_gradient,) = torch.autograd.grad((gradient * gradient.detach()).sum(), weight)
    assert grasp(weight, hessian_gradient).tolist() == [9.0, 1.0]


def test_sign_drops_from_both_sides_of_zero():
    weight = torch.tensor([[0.1, 0.2, 0.9, 3.0, -0.3, -5.0, 7.0]])
    mask = torch.tensor([[True] * 6 + [False]])
    # 3 of 6 living, of which 2 of 6 negative: one negative (-0.3) and two positive (0.1, 0.2)
    assert drop_by_sign(weight, mask, 3).tolist() == [[False, False, True, True, False, True, False]]
    by_sign = drop(Layer(weight, mask), 0.5, Method(drop_by="sign"))
    assert by_sign.tolist() == drop_by_sign(weight, mask, 3).tolist()
    with pytest.raises(ValueError, match="6 living"):
        drop_by_sign(weight, mask, 7)


def test_threshold_is_strict():
    mask = torch.tensor([[True, True, False]])
    assert above_threshold(torch.tensor([[0.5, -0.6, 9.0]]), mask, 0.5).tolist() == [[False, True, False]]


def test_random_drop_is_reproducible_and_exact():
    weight, mask = torch.ones(5, 8), torch.ones(5, 8, dtype=torch.bool)
    layers = [Layer(weight, mask, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    first, second = (drop(layer, 0.3, Method(drop_by="random")) for layer in layers)
    assert torch.equal(first, second)
    assert int(first.sum()) == 28


def test_growth_takes_the_largest_absent_and_may_return_the_dropped():
    mask = torch.tensor([[True, False, False, False]])
    signal = torch.tensor([[9.0, -3.0, 1.0, 3.0]])
    assert grow(mask, 1, growth_score("gradient", Layer(signal, mask, signal))).tolist() == [[True, True, False, False]]
    with pytest.raises(ValueError, match="the 3 candidates"):
        grow(mask, 4, signal)


def strong_rows(layer):
    """A user's criterion: |w|, and more where the whole unit is strong."""
    return layer.weight.abs() + layer.weight.abs().sum(1, keepdim=True)


def test_a_function_is_a_criterion_of_each_kind():
    weight = torch.tensor([[1.0, 2.0, 0.0], [4.0, 0.0, 3.0]])
    layer = Layer(weight, weight != 0)
    assert score(strong_rows, layer).tolist() == [[4.0, 5.0, 3.0], [11.0, 7.0, 10.0]]
    assert drop(layer, 0.5, Method(drop_by=strong_rows)).tolist() == [[False] * 3, [True, False, True]]
    assert grow(layer.mask, 1, growth_score(strong_rows, layer)).tolist() == [[True, True, False], [True] * 3]
    with pytest.raises(ValueError, match=r"must return a score of shape \(2, 3\), got shape \(2,\)"):
        score(lambda layer: layer.weight.sum(1), layer)
    with pytest.raises(ValueError, match="got float"):
        growth_score(lambda layer: 1.0, layer)


def test_the_dictionaries_hold_the_names_that_options_may_have():
    assert set(SCORES) == set(get_args(ScoreName))
    assert set(DROPS) == set(get_args(DropName))
    assert {*GROWTH, "none"} == set(get_args(GrowName))


def test_unknown_names_are_told_what_exists():
    ones = torch.ones(1, 2)
    layer = Layer(ones, ones.bool())
    with pytest.raises(
        ValueError, match="drop_by must be one of magnitude, taylor, random, sign, threshold, or a function"
    ):
        Method(drop_by="small")
    with pytest.raises(ValueError, match="criterion must be one of"):
        score("size", layer)
    with pytest.raises(ValueError, match=r"grow must be one of.*did you mean 'gradient'"):
        growth_score("gradiant", layer)
    with pytest.raises(ValueError, match="prune rate 2 must lie"):
        drop(layer, 2, Method())
