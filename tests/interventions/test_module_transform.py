"""CReLU keeps widths, halves the layer before it, and never dies."""

import pytest
import torch
from spikingjelly.activation_based import layer as sj
from torch import nn

from plasticity_lightning.interventions.module_transform import CReLU, LayerNormed, halve_width, insert_crelu


def test_crelu_by_hand():
    assert CReLU(-1)(torch.tensor([[1.0, -2.0]])).tolist() == [[1.0, 0.0, 0.0, 2.0]]
    assert CReLU()(torch.ones(2, 3, 4)).shape == (2, 6, 4)


def test_every_input_passes_a_gradient():
    x = torch.tensor([[-3.0, 2.0]], requires_grad=True)
    CReLU()(x).sum().backward()
    assert x.grad.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize(
    ("net", "x", "dim"),
    [
        (nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2)), (4, 3), -1),
        (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), (4, 5, 3), -1),
        (nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)), (2, 2, 8, 8), -3),
    ],
)
def test_widths_stay_and_the_layer_before_is_halved(net, x, dim):
    at = next(i for i, layer in enumerate(net) if isinstance(layer, nn.ReLU))
    shape, before = net(torch.randn(x)).shape, net[0].weight.shape
    insert_crelu(net, at)
    assert net(torch.randn(x)).shape == shape
    assert net[0].weight.shape == (before[0] // 2, *before[1:])
    assert net[at].dim == dim


def test_what_cannot_be_halved_is_told():
    with pytest.raises(ValueError, match="a width of 3 cannot be halved"):
        insert_crelu(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), 1)
    with pytest.raises(ValueError, match="the width of Softmax cannot be halved"):
        halve_width(nn.Softmax(1))
    with pytest.raises(ValueError, match="no Linear layer or convolution stands before"):
        insert_crelu(nn.Sequential(nn.ReLU()), 0)


def test_normed_outputs():
    out = LayerNormed(nn.Linear(3, 4))(torch.randn(5, 3))
    torch.testing.assert_close(out.mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    out = LayerNormed(nn.Conv2d(3, 4, 1))(torch.randn(5, 3, 2, 2))
    torch.testing.assert_close(out.flatten(1).mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="only Linear and convolutions"):
        LayerNormed(nn.ReLU())


def test_samples_and_time_steps_of_a_multi_step_convolution_stay_apart():
    torch.manual_seed(0)
    layer = LayerNormed(sj.Conv2d(3, 2, 3, step_mode="m"))  # as many channels as samples
    x = torch.randn(4, 2, 3, 6, 6)  # [T, B, C, H, W]
    out = layer(x)
    torch.testing.assert_close(out.flatten(2).mean(2), torch.zeros(4, 2), atol=1e-6, rtol=0)
    changed = x.clone()
    changed[1, 0] += 5
    same = (layer(changed) == out).flatten(2).all(2)
    assert (~same).nonzero().tolist() == [[1, 0]]
    assert halve_width(layer[0]).step_mode == "m"
