"""The small networks: parameters, shapes and cost."""

import pytest
import torch
from torch import nn

from plasticity_lightning.networks.small import SmallCNN, SmallConvNet, lenet_300_100, small_conv_net


def test_lenet_300_100_has_its_266610_parameters():
    network = lenet_300_100()
    assert sum(p.numel() for p in network.parameters()) == 785 * 300 + 301 * 100 + 101 * 10 == 266_610
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert not isinstance(network[-1], nn.ReLU)


def test_small_conv_net_has_the_parameters_and_multiply_adds_of_its_docstring():
    network = small_conv_net().eval()
    assert sum(p.numel() for p in network.parameters()) == 246_682
    adds = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: adds.append(m.weight.numel() * o[0, 0].numel()))
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert sum(adds) == pytest.approx(1.6e6, rel=0.02)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SmallConvNet((4, 4), (1,), 10, 3),
        lambda: SmallConvNet((4,), (0,), 10, 3),
        lambda: lenet_300_100(0),
        lambda: lenet_300_100(widths=(10, 0)),
    ],
)
def test_impossible_sizes_are_refused(build):
    with pytest.raises(ValueError, match=r"must be positive|one entry for each stage"):
        build()


def test_shapes_of_the_pooled_net_follow_from_the_arguments():
    net = SmallCNN((1, 8, 8), out_features=3, width=4, blocks=2, hidden=6)
    assert net.conv_2.weight.shape == (8, 4, 3, 3)
    assert net.hidden.weight.shape == (6, 8 * 2 * 2)
    assert net(torch.zeros(5, 1, 8, 8)).shape == (5, 3)


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"blocks": 0}, {"hidden": 0}, {"out_features": 0}, {"image_shape": (3, 30, 32)}]
)
def test_arguments_of_the_pooled_net_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        SmallCNN(**wrong)
