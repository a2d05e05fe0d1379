"""Activity measures: hand-computed layers, invariants, and conventions on what a unit is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from plasticity_lightning.measures.activity import (
    activation_norm,
    active_entries,
    count_active,
    dormant,
    dormant_fraction,
    dormant_scores,
    ever_active,
    fau,
    saturated,
    zero_grad_units,
)
from plasticity_lightning.measures.units import feature_matrix, samples_by_units

LAYER = torch.tensor([[1.0, 0.0, 0.0, 0.1], [3.0, 0.0, 2.0, 0.0]])  # 2 samples, 4 units after a ReLU
seeds = st.integers(0, 10_000)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_layer_by_hand():
    assert fau(LAYER) == 0.5  # 4 of 8 entries are positive
    assert ever_active(LAYER) == 0.75  # all but unit 1
    # mean |a| = 2, 0, 1, 0.05: layer mean 0.7625; scores 2.623, 0, 1.311, 0.0656
    torch.testing.assert_close(
        dormant_scores(LAYER.double().mean(0)),
        torch.tensor([2.62295, 0.0, 1.31148, 0.06557]).double(),
        rtol=1e-4,
        atol=0,
    )
    assert dormant(LAYER, tau=0.0) == 0.25
    assert dormant(LAYER, tau=0.025) == 0.25
    assert dormant(LAYER, tau=0.1) == 0.5
    # row norms sqrt(1 + .01) and sqrt(13)
    assert activation_norm(LAYER) == pytest.approx((1.01**0.5 + 13**0.5) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_active_are_the_positive_numbers_to_the_smallest_and_to_infinity_but_not_nan(dtype):
    nan, inf = float("nan"), float("inf")
    smallest = torch.tensor([1], dtype={2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]).view(dtype)
    rest = torch.tensor([inf, 1.0, 0.0, -0.0, -1.0, -inf, nan, -nan], dtype=dtype)
    values = torch.cat([smallest, rest, -smallest])
    assert active_entries(values).tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert count_active(values) == 3


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(3, 5), (7, 300), (2, 3, 11, 40), (5, 270, 400)]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]),
    st.sampled_from(["plain", "transposed", "strided", "channels_last", "expanded"]),
    seeds,
)
def test_active_entries_are_counted_in_any_layout(shape, dtype, layout, seed):
    a = (rand(*shape, seed=seed) * 3).to(dtype)
    if layout == "transposed":
        a = a.transpose(0, 1)
    elif layout == "strided":
        a = a[..., ::2]
    elif layout == "channels_last" and a.ndim == 4:
        a = a.to(memory_format=torch.channels_last)
    elif layout == "expanded":
        a = a[:1].expand(shape)
    assert count_active(a) == int((a > 0).numpy().sum())
    assert torch.equal(active_entries(a).bool(), a > 0)


def test_the_fau_of_a_module_sums_before_it_divides():
    small, large = torch.ones(2, 1), torch.zeros(2, 3)
    assert fau(small, large) == 0.25  # 2 active of 8, not the mean of 1 and 0


def test_channels_are_units_unless_positions_are_asked_for():
    a = torch.zeros(2, 3, 2, 2)
    a[0, 0, 0, 0] = a[1, 0, 1, 1] = a[0, 1, 0, 1] = 1.0
    assert samples_by_units(a).shape == (8, 3)
    assert samples_by_units(a, spatial_units=True).shape == (2, 12)
    assert fau(a) == pytest.approx(3 / 24)
    assert ever_active(a) == pytest.approx(2 / 3)  # channels 0 and 1
    assert ever_active(a, spatial_units=True) == pytest.approx(3 / 12)
    assert dormant(a, tau=0.0) == pytest.approx(1 / 3)
    assert dormant(a, tau=0.0, spatial_units=True) == pytest.approx(9 / 12)
    # pooled features: sample 0: (1/4, 1/4, 0), sample 1: (1/4, 0, 0)
    assert feature_matrix(a).tolist() == [[0.25, 0.25, 0.0], [0.25, 0.0, 0.0]]
    assert feature_matrix(a, pool=False).shape == (2, 12)
    assert activation_norm(a) == pytest.approx((0.125**0.5 + 0.25) / 2)


def test_spatial_units_are_numbered_channel_by_channel_whatever_the_layout():
    first = rand(2, 3, 4, 5)
    last = first.movedim(1, -1)
    assert torch.equal(samples_by_units(first, spatial_units=True), first.flatten(1))
    assert torch.equal(samples_by_units(last, unit_dim=-1, spatial_units=True), first.flatten(1))
    assert torch.equal(samples_by_units(first), samples_by_units(last, unit_dim=-1))
    assert torch.equal(feature_matrix(last, unit_dim=-1, pool=False), first.flatten(1))
    torch.testing.assert_close(feature_matrix(first), first.mean((2, 3)))


def test_spiking_and_transformer_layers_have_their_units_last():
    spikes = torch.zeros(5, 2, 3)  # [T, B, N]
    spikes[1, 0, 0] = spikes[2, 1, 0] = spikes[4, 1, 2] = 1
    assert fau(spikes) == pytest.approx(3 / 30)
    assert ever_active(spikes, unit_dim=-1) == pytest.approx(2 / 3)
    assert dormant(spikes, tau=0.0, unit_dim=-1) == pytest.approx(1 / 3)


def test_a_layer_of_zeros_is_all_dormant_at_any_threshold():
    zeros = torch.zeros(4, 6)
    assert dormant(zeros, tau=0.0) == 1.0
    assert dormant(zeros, tau=0.5) == 1.0
    assert fau(zeros) == ever_active(zeros) == activation_norm(zeros) == 0.0


def test_a_diverged_layer_is_nan_and_not_plausible():
    for bad in (torch.nan, torch.inf):
        layer = LAYER.clone()
        layer[0, 0] = bad
        assert dormant(layer).isnan()
    layer[0, 0] = torch.nan
    assert fau(layer) == pytest.approx(3 / 8)  # NaN counts as inactive


def test_dead_inputs_can_be_left_out_by_a_mask():
    keep = torch.tensor([True, False, True, True])
    assert ever_active(LAYER, unit_mask=keep) == 1.0
    # mean |a| of the kept units 2, 1, .05: mean 1.01667, the last scores 0.049
    assert dormant(LAYER, tau=0.025, unit_mask=keep) == 0.0
    assert dormant(LAYER, tau=0.05, unit_mask=keep) == pytest.approx(1 / 3)
    assert dormant(LAYER * torch.tensor([1, torch.nan, 1, 1]), tau=0.05, unit_mask=keep) == pytest.approx(1 / 3)
    assert ever_active(LAYER, unit_mask=torch.zeros(4, dtype=torch.bool)).isnan()
    assert dormant(LAYER, unit_mask=torch.zeros(4, dtype=torch.bool)).isnan()
    with pytest.raises(ValueError, match=r"bool tensor \[4\]"):
        ever_active(LAYER, unit_mask=torch.ones(3, dtype=torch.bool))


def test_dormancy_sees_what_fau_cannot_with_other_nonlinearities():
    z = rand(64, 10)
    z[:, 3] *= 1e-4  # a unit that always says nothing
    for function in (torch.tanh, functional.gelu, functional.silu):
        assert dormant(function(z), tau=0.025) == pytest.approx(0.1)
        assert dormant(function(z)[:, [0, 1, 2, 4]], tau=0.025) == 0.0


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(1e-3, 1e3), st.floats(0.0, 1.0))
def test_fractions_ignore_scale_and_order(seed, scale, tau):
    a = rand(9, 7, seed=seed).relu() * (rand(7, seed=seed + 1) > -0.5)
    order, batch = torch.randperm(7), torch.randperm(9)
    for measure in (fau, ever_active, lambda x: dormant(x, tau)):
        value = measure(a)
        assert 0 <= value <= 1
        assert measure(a[batch][:, order]) == pytest.approx(float(value), abs=1e-9)
    assert fau(scale * a) == fau(a)
    assert ever_active(scale * a) == ever_active(a)
    scores = dormant_scores(a.double().mean(0))
    torch.testing.assert_close(dormant_scores(scale * a.double().mean(0)), scores)
    if a.any():
        assert scores.mean() == pytest.approx(1.0)
    assert fau(a) <= ever_active(a)
    assert activation_norm(scale * a) == pytest.approx(scale * float(activation_norm(a)), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.0, 0.5))
def test_dormant_equals_the_definition_in_numpy(seed, tau):
    a = rand(6, 5, 3, 2, seed=seed) * torch.linspace(0, 1, 5)[None, :, None, None]
    mean = np.abs(a.double().numpy()).mean(axis=(0, 2, 3))
    assert dormant(a, tau) == np.mean(mean / mean.mean() <= tau)
    assert dormant_fraction(torch.from_numpy(mean), tau) == dormant(a, tau)


def test_dormancy_is_monotone_in_tau():
    a = rand(8, 50).relu() * torch.rand(50, generator=torch.Generator().manual_seed(2)) ** 4
    values = [float(dormant(a, tau)) for tau in (0.0, 0.025, 0.1, 0.5, 1.0)]
    assert values == sorted(values)
    assert values[-1] > values[0]


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        ("tanh", [0.995, -0.995, 0.5, 0.99], 0.5),
        ("sigmoid", [0.995, 0.005, 0.5, 0.02], 0.5),
        ("relu6", [6.0, 5.9, 0.0, 3.0], 0.25),
        ("hardtanh", [1.0, -1.0, 0.99, 0.0], 0.5),
        ("hardsigmoid", [0.0, 1.0, 0.5, 0.2], 0.5),
    ],
)
def test_saturation_by_hand(function, values, expected):
    assert saturated(torch.tensor([values]), function) == expected


def test_an_unknown_saturating_function_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        saturated(LAYER, "sigmoidal")


def test_zero_grad_units_by_hand():
    # tanh'(z) = 1 - tanh(z)^2: at 5 it is 1.8e-4, at 1 it is 0.42. Unit 0 always saturated, unit 1 once, unit 2 never
    z = torch.tensor([[5.0, 5.0, 1.0], [-5.0, 1.0, 0.0]])
    assert zero_grad_units(z, torch.tanh) == pytest.approx(1 / 3)
    assert zero_grad_units(z, torch.tanh, threshold=0.5) == pytest.approx(2 / 3)  # 0.42 is below 0.5: unit 1 too
    assert zero_grad_units(z, torch.tanh, threshold=1e-5) == 0.0
    assert zero_grad_units(z, torch.tanh, unit_mask=torch.tensor([False, True, True])) == 0.0


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_zero_grad_units_of_relu_are_the_dead_ones_and_agree_with_the_known_derivative(seed):
    z = rand(5, 8, seed=seed) - 1.0
    assert zero_grad_units(z, torch.relu) == pytest.approx(1 - float(ever_active(z.relu())))
    expected = ((3 * z).sigmoid() < 0.05).all(0).double().mean()  # softplus' = sigmoid
    leaf = (3 * z).requires_grad_()
    assert zero_grad_units(leaf, functional.softplus, threshold=0.05) == expected
    assert leaf.grad is None
    with torch.inference_mode():
        assert zero_grad_units(3 * z, functional.softplus, threshold=0.05) == expected


@pytest.mark.parametrize("unit_dim", [0, 2, -2])
def test_the_batch_is_not_a_dimension_of_units(unit_dim):
    with pytest.raises(ValueError, match=f"unit_dim={unit_dim}"):
        samples_by_units(LAYER, unit_dim=unit_dim)


def test_empty_and_flat_activations_are_refused():
    with pytest.raises(ValueError, match="non-empty"):
        ever_active(torch.zeros(3))
    with pytest.raises(ValueError, match="non-empty"):
        fau()
    with pytest.raises(ValueError, match="tau=-1"):
        dormant(LAYER, tau=-1)


def test_measuring_keeps_no_graph():
    a = torch.randn(3, 4, requires_grad=True).relu()
    for value in (fau(a), ever_active(a), dormant(a), activation_norm(a), saturated(a)):
        assert not value.requires_grad
