"""Sizes and dueling of the value network for Atari, from the published settings."""

import pytest
import torch
import torch.nn.functional as F

from plasticity_lightning.networks.pixel_value import DuelingValueNetwork


def test_published_sizes():
    network = DuelingValueNetwork((4, 84, 84), 18)
    # SAME: 84 -> 21 -> 11 -> 11
    assert network.head.hidden.in_features == 64 * 11 * 11
    convolutions = 4 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64
    dense = 7744 * 512 + 512 + 512 * 1 + 1 + 512 * 18 + 18
    assert sum(p.numel() for p in network.parameters()) == convolutions + dense


def test_odd_padding_goes_to_the_lower_right():
    network = DuelingValueNetwork((1, 84, 84), 2)
    # second convolution: side 21, kernel 4, stride 2: (11 - 1) * 2 + 4 - 21 = 3, one before and two behind
    assert tuple(network.encoder.pad_2.padding) == (1, 2, 1, 2)
    assert tuple(network.encoder.pad_1.padding) == (2, 2, 2, 2)
    assert tuple(network.encoder.pad_3.padding) == (1, 1, 1, 1)


def test_advantages_are_centred():
    network = DuelingValueNetwork((2, 20, 16), 5, width=0.25, hidden=8)
    x = torch.rand(3, 2, 20, 16)
    value = network.value(network.head(network.encoder(x)))
    assert torch.allclose(network(x).mean(1, keepdim=True), value, atol=1e-6)


def test_same_padding_equals_flax_by_definition():
    network = DuelingValueNetwork((1, 10, 10), 1, width=1 / 32, hidden=1)
    x = torch.rand(1, 1, 10, 10)
    # side 10, kernel 8, stride 4: 3 outputs need (3 - 1) * 4 + 8 = 16 pixels: 3 before, 3 behind
    expected = F.conv2d(F.pad(x, (3, 3, 3, 3)), network.encoder.conv_1.weight, stride=4)
    assert torch.allclose(network.encoder[:2](x), expected, atol=1e-6)


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="n_actions=0"):
        DuelingValueNetwork((1, 84, 84), 0)
