"""Shrink and perturb by hand."""

import pytest
import torch
from torch import nn

from plasticity_lightning.interventions.initialise import fresh_layer
from plasticity_lightning.interventions.shrink_and_perturb import mix_in_fresh, shrink_and_add_noise


def test_mixing_by_hand():
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, 10.0)
    new = fresh_layer(layer, 4)
    mix_in_fresh(layer, 4, 0.8)
    torch.testing.assert_close(layer.weight, 8.0 + 0.2 * new.weight)


def test_alpha_zero_is_a_reset_even_of_a_diverged_layer():
    layer = nn.BatchNorm1d(2)
    nn.init.constant_(layer.weight, torch.inf)
    layer.running_var.fill_(9.0)
    layer.num_batches_tracked.fill_(5)
    mix_in_fresh(layer, 0, 0.0)
    assert layer.weight.tolist() == [1.0, 1.0]
    assert layer.running_var.tolist() == [1.0, 1.0]
    assert layer.num_batches_tracked == 0


def test_alpha_one_changes_nothing_and_running_statistics_are_mixed():
    layer = nn.BatchNorm1d(1)
    layer.running_mean.fill_(2.0)
    layer.num_batches_tracked.fill_(5)
    mix_in_fresh(layer, 0, 1.0)
    assert layer.running_mean == 2.0
    mix_in_fresh(layer, 0, 0.5)
    assert layer.running_mean == 1.0
    assert layer.num_batches_tracked == 5


def test_noise_has_the_given_spread_and_leaves_frozen_parameters():
    layer = nn.Linear(200, 100)
    layer.bias.requires_grad_(False)
    bias = layer.bias.clone()
    layer.weight.data.fill_(1.0)
    changed = shrink_and_add_noise(layer, 0, 0.5, 0.1)
    assert layer.weight.mean().item() == pytest.approx(0.5, abs=0.005)
    assert layer.weight.std().item() == pytest.approx(0.1, rel=0.03)
    assert torch.equal(layer.bias, bias)
    assert [id(t) for t in changed] == [id(layer.weight)]


def test_ranges():
    with pytest.raises(ValueError, match=r"alpha=1\.5 must be in"):
        mix_in_fresh(nn.Linear(1, 1), 0, 1.5)
    with pytest.raises(ValueError, match="alpha=-1 must be in"):
        shrink_and_add_noise(nn.Linear(1, 1), 0, -1, 0.0)
    with pytest.raises(ValueError, match="noise_std=-1 must not be negative"):
        shrink_and_add_noise(nn.Linear(1, 1), 0, 1, -1)
