"""Which weights are masked: types, patterns, position, sharing, freezing."""

import pytest
import torch
from torch import nn

from plasticity_lightning.sparsity.selection import floors_by_name, select_parameters


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.embedding = nn.Embedding(3, 4)
        self.hidden = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.hidden.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.local = nn.Parameter(torch.zeros(4, 4), requires_grad=False)
        self.out = nn.Linear(4, 2)


def test_default_takes_linear_and_convolution_weights_once_and_leaves_the_frozen():
    assert list(select_parameters(Net())) == ["conv.weight", "hidden.weight", "out.weight"]


def test_first_and_last_layer_stay_dense():
    assert list(select_parameters(Net(), first_layer="dense", last_layer="dense")) == ["hidden.weight"]


def test_patterns_and_types():
    assert list(select_parameters(Net(), include=["*weight"], exclude=["out*"])) == ["conv.weight", "hidden.weight"]
    assert list(select_parameters(Net(), types=["Embedding"])) == ["embedding.weight"]
    assert list(select_parameters(Net(), types=["_ConvNd"])) == ["conv.weight"]


def test_a_whole_name_selects_a_weight_without_autograd():
    assert list(select_parameters(Net(), include=["local"])) == ["local"]
    with pytest.raises(ValueError, match="no weight is left"):
        select_parameters(Net(), include=["frozen.*"])  # a pattern does not: frozen means frozen


def test_compiled_names_are_plain():
    compiled = nn.Module()  # as torch.compile wraps it; compiling itself takes long
    compiled._orig_mod = nn.Sequential(nn.Linear(2, 2))
    net = nn.ModuleDict({"a": compiled})
    assert list(select_parameters(net)) == ["a.0.weight"]


def test_errors():
    with pytest.raises(ValueError, match=r"exclude='head\.\*' matches no parameter"):
        select_parameters(Net(), exclude=["head.*"])
    with pytest.raises(ValueError, match="first_layer must be one of sparse, dense"):
        select_parameters(Net(), first_layer="none")
    assert floors_by_name({"*": 0.1, "out*": 0.2}, ["a", "out.weight"]) == {"a": 0.1, "out.weight": 0.2}
    with pytest.raises(ValueError, match="matches no masked weight"):
        floors_by_name({"x": 0.1}, ["a"])
    with pytest.raises(ValueError, match="must lie"):
        floors_by_name({"a": 2}, ["a"])
