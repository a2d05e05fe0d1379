"""VGG-19 for CIFAR: parameters and shapes."""

import pytest
import torch
from torch import nn

from plasticity_lightning.networks.vgg import VGG, vgg19


def test_vgg19_has_sixteen_convolutions_and_the_published_parameters():
    network = vgg19()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 4
    # the widely used CIFAR VGG-19 with biased convolutions has 20,040,522; these have no bias (5,504 channels)
    assert sum(p.numel() for p in network.parameters()) == 20_040_522 - 5_504 == 20_035_018


def test_output_is_one_row_of_logits_an_image():
    assert vgg19(100, width=4).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize("groups", [[], [[4], []], [[4, 0]]])
def test_impossible_groups_are_named(groups):
    with pytest.raises(ValueError, match="groups="):
        VGG(groups, 10)
