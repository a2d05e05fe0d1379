"""Allocation: ERK by hand, floors, exact counts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.sparsity.allocation import allocate, exact_counts, global_masks


def test_erk_by_hand_without_saturation():
    # raw: (8+4+3+3)/288 = 1/16 of 288 weights, (10+8)/80 = 9/40 of 80: 18 + 18 = 36 raw weights.
    # density 0.05 of 368 = 18.4 weights: eps = 18.4/36
    result = allocate("erk", {"conv": (8, 4, 3, 3), "fc": (10, 8)}, 0.05)
    assert result["conv"] == pytest.approx(18.4 / 36 / 16)
    assert result["fc"] == pytest.approx(18.4 / 36 * 9 / 40)


def test_erk_makes_layers_dense_and_solves_again_twice():
    # a (2, 2): raw 1; b (10, 10): raw 0.2; c (100, 100): raw 0.02. Sizes 4, 100, 10000; raw weights 4, 20, 200.
    # density 0.1: 1010.4 weights, eps = 1010.4/224 = 4.51: a exceeds 1 (4.51), b does not (0.90).
    # again: 1006.4 / 220 = 4.575: b 0.915. Density 0.12: 1212.48, eps 5.41: a and b exceed; c = 1108.48/10000.
    shapes = {"a": (2, 2), "b": (10, 10), "c": (100, 100)}
    result = allocate("erk", shapes, 0.1)
    assert result == pytest.approx({"a": 1.0, "b": 0.2 * 1006.4 / 220, "c": 0.02 * 1006.4 / 220})
    assert allocate("erk", shapes, 0.12) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1108.48 / 10000})


def test_er_leaves_the_kernel_out():
    result = allocate("er", {"a": (4, 4, 3, 3), "b": (4, 4)}, 0.25)
    assert result["a"] == pytest.approx(result["b"]) == pytest.approx(0.25)


def test_a_floor_is_paid_by_the_others():
    # GraNet's uniform variant: 900 + 100 weights, density 0.1 = 100 weights, 20 of them in the last layer
    assert allocate("uniform", {"a": (30, 30), "fc": (10, 10)}, 0.1, {"fc": 0.2}) == pytest.approx(
        {"a": 80 / 900, "fc": 0.2}
    )
    assert allocate("uniform", {"a": (30, 30), "fc": (10, 10)}, 0.5, {"fc": 0.2}) == {"a": 0.5, "fc": 0.5}


layers = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6)


@given(layers, st.floats(0, 1), st.sampled_from(["uniform", "er", "erk"]))
def test_the_total_holds_and_counts_are_exact(shapes, density, name):
    named = {str(i): shape for i, shape in enumerate(shapes)}
    sizes = {layer: math.prod(shape) for layer, shape in named.items()}
    densities = allocate(name, named, density)
    assert all(0 <= d <= 1 for d in densities.values())
    assert sum(densities[layer] * n for layer, n in sizes.items()) == pytest.approx(density * sum(sizes.values()))
    counts = exact_counts(densities, sizes)
    assert sum(counts.values()) == round(sum(densities[layer] * n for layer, n in sizes.items()))
    assert all(abs(counts[layer] - densities[layer] * n) <= 1 for layer, n in sizes.items())


def test_exact_counts_by_hand():
    # 1.5, 1.25, 1.25 make 4: one each, and one more to the largest remainder
    assert exact_counts({"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 3, "b": 5, "c": 5}) == {"a": 2, "b": 1, "c": 1}
    with pytest.raises(ValueError, match="total=9 does not fit"):
        exact_counts({"a": 0.5}, {"a": 4}, total=9)


def test_global_masks_rank_all_layers_together():
    scores = {"a": torch.tensor([[3.0, 1.0]]), "b": torch.tensor([2.0, 2.0, 5.0])}
    masks = global_masks(scores, 3)
    assert masks["a"].tolist() == [[True, False]]
    assert masks["b"].tolist() == [True, False, True]  # of the tie the lower index


def test_errors():
    with pytest.raises(ValueError, match="allocation must be one of uniform, er, erk, got 'ekr'"):
        allocate("ekr", {"a": (2, 2)}, 0.5)
    with pytest.raises(ValueError, match=r"density=1\.5"):
        allocate("er", {"a": (2, 2)}, 1.5)
    with pytest.raises(ValueError, match="the floors alone need 100 weights"):
        allocate("uniform", {"a": (10, 10)}, 0.5, {"a": 1.0})
    with pytest.raises(ValueError, match="layer 'x'"):
        allocate("uniform", {"a": (10, 10)}, 0.5, {"x": 1.0})


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,)])
@pytest.mark.parametrize("name", ["uniform", "er", "erk"])
def test_an_empty_or_flat_shape_is_named(name, shape):
    with pytest.raises(ValueError, match=r"layer 'a' is .*expected \[out, in, \.\.\.\]"):
        allocate(name, {"b": (2, 2), "a": shape}, 0.5)
