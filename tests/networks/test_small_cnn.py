"""Shapes of the small convolutional network."""

import pytest
import torch

from plasticity_lightning.networks import SmallCNN


def test_shapes_follow_from_the_arguments():
    net = SmallCNN((1, 8, 8), out_features=3, width=4, blocks=2, hidden=6)
    assert net.conv_2.weight.shape == (8, 4, 3, 3)
    assert net.hidden.weight.shape == (6, 8 * 2 * 2)
    assert net(torch.zeros(5, 1, 8, 8)).shape == (5, 3)


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"blocks": 0}, {"hidden": 0}, {"out_features": 0}, {"image_shape": (3, 30, 32)}]
)
def test_arguments_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        SmallCNN(**wrong)
