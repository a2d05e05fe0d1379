"""Residual networks: published parameter counts, shapes, names of torchvision's checkpoints."""

import pytest
import torch

from plasticity_lightning.networks.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    cifar_resnet20,
    cifar_resnet50,
    resnet50,
)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_cifar_resnet20_has_the_parameters_of_the_published_one():
    # He et al. 2016 give 0.27 M; with projections 3*16*9 + 3 stages of convolutions, projections, norms, 650 at the end
    stage = [6 * 16 * 16 * 9, 16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32, 32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64]
    norms = 2 * (16 + 6 * 16 + 7 * 32 + 7 * 64)
    assert parameters(cifar_resnet20()) == 3 * 16 * 9 + sum(stage) + norms + 64 * 10 + 10 == 272_474


def test_cifar_resnet50_has_the_parameters_of_granets():
    # ImageNet's 25,557,032, without 7x7 stem (9,408) and classifier (2,049,000), with 3x3 stem (1,728) and 2048 * classes
    assert parameters(cifar_resnet50()) == 25_557_032 - 9_408 - 2_049_000 + 1_728 + 20_480 == 23_520_832
    assert parameters(cifar_resnet50(100)) == 23_520_832 + 90 * 2048


def test_imagenet_resnet50_has_torchvisions_parameters_and_names():
    network = resnet50()
    assert parameters(network) == 25_557_032
    names = set(network.state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.downsample.0.weight",
        "layer4.2.bn3.weight",
        "fc.bias",
    } <= names
    assert len(names) == 320  # of torchvision.models.resnet50


@pytest.mark.parametrize(("factory", "size"), [(cifar_resnet20, 32), (cifar_resnet50, 32), (resnet50, 64)])
def test_output_is_one_row_of_logits_an_image(factory, size):
    network = factory(7, width=4).eval()
    assert network(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_the_network_shrinks_the_image_as_published():
    seen = {}
    network = resnet50(10, width=4)
    for name in ("maxpool", "layer1", "layer4"):
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.shape[-1]}))
    network.eval()(torch.randn(1, 3, 224, 224))
    assert seen == {"maxpool": 56, "layer1": 56, "layer4": 7}
    network = cifar_resnet50(10, width=4).eval()
    network.layer4.register_forward_hook(lambda m, i, o: seen.update(cifar=o.shape[-1]))
    network(torch.randn(1, 3, 32, 32))
    assert seen["cifar"] == 4


def test_a_block_whose_branch_is_silent_passes_its_input_on():
    block = Bottleneck(16, 4).eval()
    torch.nn.init.zeros_(block.bn3.weight)
    x = torch.rand(2, 16, 5, 5)
    assert torch.equal(block(x), x)


def test_initialisation_is_by_fan_in_where_asked_for():
    torch.manual_seed(0)
    network = resnet50(10, initialisation="fan_in")
    weight = network.layer3[1].conv2.weight  # 256 x 256 x 3 x 3
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"depths": (1, 1), "widths": (4,)}, "one entry for each stage"),
        ({"depths": (1, 0), "widths": (4, 4)}, "must be positive"),
        ({"stem": "cifra"}, "stem must be 'cifar' or 'imagenet', got 'cifra'"),
        ({"initialisation": "fan_mid"}, "initialisation must be 'default', 'fan_in' or 'fan_out', got 'fan_mid'"),
    ],
)
def test_impossible_arguments_are_named(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        ResNet(**{"block": BasicBlock, "depths": (1,), "widths": (4,), "n_classes": 3, **arguments})
