"""Shapes and names of the MLP."""

import pytest
import torch
from torch import nn

from plasticity_lightning.networks import MLP


def test_layers_have_the_names_and_shapes_that_interventions_select():
    net = MLP(12, 3, width=5, depth=2, activation="tanh")
    assert list(dict(net.named_children())) == ["flatten", "hidden_1", "act_1", "hidden_2", "act_2", "output"]
    assert [tuple(p.shape) for p in net.parameters()] == [(5, 12), (5,), (5, 5), (5,), (3, 5), (3,)]
    assert isinstance(net.act_2, nn.Tanh)
    assert net.act_1 is not net.act_2  # hooks tell layers apart by module
    assert net(torch.zeros(4, 1, 3, 4)).shape == (4, 3)


def test_depth_zero_is_linear():
    net = MLP(4, 2, depth=0)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net(x), net.output(x))
    assert len(list(net.parameters())) == 2


@pytest.mark.parametrize(
    "wrong", [{"in_features": 0}, {"out_features": 0}, {"width": 0}, {"depth": -1}, {"activation": "relo"}]
)
def test_arguments_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        MLP(**{"in_features": 2, "out_features": 2} | wrong)
