"""Step by step equality with the slow reference, counts after rounding, the published quirks, structure."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.sparsity.layer import Layer
from plasticity_lightning.sparsity.masks import count
from plasticity_lightning.sparsity.methods import Method, make_method
from plasticity_lightning.sparsity.structured import is_n_m, limit_mask
from plasticity_lightning.sparsity.update import prune_to_density, regenerate, update_masks

from . import reference

SHAPES = {"conv": (4, 3, 3, 3), "hidden": (7, 11), "last": (3, 7)}


def tensors(seed, grid=None):
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    # a coarse grid makes many ties
    return made if grid is None else {name: (tensor * grid).round() / grid for name, tensor in made.items()}


def layers(weights, masks, gradients=None, generator=None):
    return {name: Layer(weights[name], masks[name], (gradients or {}).get(name), None, generator) for name in weights}


def arrays(values):
    return {name: tensor.numpy().copy() for name, tensor in values.items()}


def integers(masks):
    return {name: mask.numpy().astype(int) for name, mask in masks.items()}


def same(masks, expected):
    return all(np.array_equal(masks[name].numpy().astype(int), expected[name]) for name in expected)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([None, 2.0]))
def test_granet_follows_the_specification_over_a_whole_schedule(seed, grid):
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    expected = integers(masks)
    total = sum(mask.numel() for mask in masks.values())
    for k in range(1, 6):
        weights, gradients = tensors(seed + k, grid), tensors(seed - k, grid)
        weights = {name: weight * masks[name] for name, weight in weights.items()}
        sparsity = reference.target_sparsity(k, 0, 5, 0, 0.9)
        rate = 0.5 / k
        expected = reference.prune_global(arrays(weights), expected, sparsity)
        after_pruning = expected
        expected = {
            name: reference.regenerate(arrays(weights)[name], expected[name], rate, arrays(gradients)[name])
            for name in expected
        }
        update = update_masks(layers(weights, masks, gradients), make_method("granet"), 1 - float(sparsity), rate)
        masks = update.masks
        assert same(masks, expected)
        assert same(update.kept, {name: expected[name] * after_pruning[name] for name in expected})
        assert sum(count(mask) for mask in masks.values()) == math.floor(total * (1 - sparsity))
    assert abs(sum(count(mask) for mask in masks.values()) - total * Fraction(1, 10)) < 1


@given(st.integers(0, 10_000), st.sampled_from([None, 2.0]))
def test_gmp_is_the_pruning_alone(seed, grid):
    weights = tensors(seed, grid)
    masks = {name: tensor > -1 for name, tensor in tensors(seed + 1).items()}
    update = update_masks(layers(weights, masks), make_method("gmp"), density=0.4)
    assert same(update.masks, reference.prune_global(arrays(weights), integers(masks), Fraction(6, 10)))
    assert update.grown == {}


@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([None, 2.0]))
def test_rigl_keeps_each_layers_count_and_follows_the_specification(seed, rate, grid):
    weights, gradients = tensors(seed, grid), tensors(seed + 1, grid)
    masks = {name: tensor > 0.3 for name, tensor in tensors(seed + 2).items()}
    update = update_masks(layers(weights, masks, gradients), make_method("rigl"), rate=rate)
    for name, mask in masks.items():
        expected = reference.regenerate(weights[name].numpy(), mask.numpy().astype(int), rate, gradients[name].numpy())
        assert np.array_equal(update.masks[name].numpy().astype(int), expected)
        assert count(update.masks[name]) == count(mask)
        assert update.dropped[name] == update.grown[name] == math.ceil(rate * count(mask))


@pytest.mark.parametrize("drop_by", ["magnitude", "sign"])
def test_set_drops_by_magnitude_or_by_sign_and_grows_the_same_random_positions(drop_by):
    weights = tensors(5)
    masks = {name: tensor > 0.3 for name, tensor in tensors(6).items()}
    seeded = layers(weights, masks, generator=torch.Generator().manual_seed(7))
    update = update_masks(seeded, make_method("set", drop_by=drop_by), rate=0.3)
    generator = torch.Generator().manual_seed(7)
    slow_drop = {"magnitude": reference.drop_magnitude, "sign": reference.drop_sign}[drop_by]
    for name, mask in masks.items():
        draw = torch.rand(mask.shape, generator=generator).numpy()
        expected = reference.regenerate(weights[name].numpy(), mask.numpy().astype(int), 0.3, draw, slow_drop)
        assert np.array_equal(update.masks[name].numpy().astype(int), expected)


def test_the_strict_quirk_keeps_one_less():
    scores = {"a": torch.arange(10.0).view(2, 5)}
    full = {"a": torch.ones(2, 5, dtype=torch.bool)}
    assert count(prune_to_density(scores, full, 0.4)["a"]) == 4
    once = prune_to_density(scores, full, 0.4, strict=True)
    assert count(once["a"]) == 3
    # fewer live than are to stay: the 4th highest magnitude is an absent weight's 0, and nothing more goes
    magnitudes = {"a": scores["a"] * once["a"]}
    for scope in ("global", "uniform"):
        assert torch.equal(prune_to_density(magnitudes, once, 0.4, scope, strict=True)["a"], once["a"])
    # |w| > the k-th smallest: the tie of 1 and -1 goes together, one more than asked
    weight = torch.tensor([[1.0, -1.0, 2.0, 3.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    new, dropped, _ = regenerate(Layer(weight, mask), 0.25, Method(grow_by="none", strict_threshold=True))
    assert new.tolist() == [[False, False, True, True]]
    assert dropped == 2


def test_uniform_pruning_holds_the_total_and_the_last_layers_floor():
    scores = {name: tensor.abs() for name, tensor in tensors(1).items()}
    full = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    masks = prune_to_density(scores, full, 0.1, "uniform", floors={"last": 0.2})
    # 108 + 77 + 21 = 206 weights: 20 stay. last: 4.2; the others share 16.4 of 185: 9.57 and 6.83
    assert {name: count(mask) for name, mask in masks.items()} == {"conv": 9, "hidden": 7, "last": 4}


def test_threshold_drops_all_small_ones_and_grows_as_many():
    weight = torch.tensor([[0.1, -0.2, 0.5, 0.0]])
    mask = torch.tensor([[True, True, True, False]])
    gradient = torch.tensor([[0.0, 1.0, 0.0, 2.0]])
    method = Method(drop_by="threshold", drop_threshold=0.3)
    new, dropped, grown = regenerate(Layer(weight, mask, gradient), 0.0, method)
    assert (dropped, grown) == (2, 2)
    assert new.tolist() == [[False, True, True, True]]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_two_of_four_survives_regeneration_and_loses_no_weight(seed, rate):
    generator = torch.Generator().manual_seed(seed)
    for shape in ((6, 8), (3, 8, 3, 3)):
        weight, gradient = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        mask = limit_mask(weight.abs(), 2, 4)
        assert count(mask) * 2 == mask.numel()
        method = make_method("rigl", sparsity=0.5, structure="2:4")
        new, _, _ = regenerate(Layer(weight, mask, gradient), rate, method)
        assert is_n_m(new, 2, 4)
        assert count(new) == count(mask)


def test_constant_fan_in_survives_pruning_and_regeneration():
    weights, gradients = tensors(3), tensors(4)
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    method = make_method("granet", structure="fan_in", prune="uniform")
    update = update_masks(layers(weights, masks, gradients), method, 0.3, 0.5)
    fan_in = {name: set(mask.flatten(1).sum(1).tolist()) for name, mask in update.masks.items()}
    # 0.3 of 27, 11 and 7 inputs are 8.1, 3.3 and 2.1
    assert fan_in == {"conv": {8}, "hidden": {3}, "last": {2}}


@pytest.mark.parametrize("grow_by", ["gradient", "momentum"])
def test_a_layer_that_no_batch_has_used_is_pruned_and_otherwise_left_alone(grow_by):
    weights, gradients = tensors(1), tensors(2)
    masks = {name: tensor > 0 for name, tensor in tensors(3).items()}
    made = {name: Layer(weights[name], masks[name], gradients[name], gradients[name]) for name in ("conv", "last")}
    made |= {"hidden": Layer(weights["hidden"], masks["hidden"])}
    update = update_masks(made, make_method("granet", grow_by=grow_by), 0.3, 0.5, unused={"hidden"})
    assert update.unused == ("hidden",)
    assert sum(count(mask) for mask in update.masks.values()) == math.floor(0.3 * 206)
    after = reference.prune_global(arrays(weights), integers(masks), Fraction(7, 10))
    assert np.array_equal(update.masks["hidden"].numpy().astype(int), after["hidden"])
    for name in ("conv", "last"):
        expected = reference.regenerate(weights[name].numpy() * after[name], after[name], 0.5, gradients[name].numpy())
        assert np.array_equal(update.masks[name].numpy().astype(int), expected)


def test_what_is_missing_is_named():
    weights = tensors(0)
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    made = layers(weights, masks)
    with pytest.raises(ValueError, match="growth by gradient needs that tensor"):
        update_masks(made, make_method("rigl"), rate=0.1)
    with pytest.raises(ValueError, match=r"torch\.Generator"):
        update_masks(made, make_method("set"), rate=0.1)
    with pytest.raises(ValueError, match="needs the gradient"):
        update_masks(made, make_method("gmp", prune_by="taylor"), density=0.1)
    with pytest.raises(ValueError, match="scope must be one of global"):
        prune_to_density(weights, masks, 0.1, "layer")
