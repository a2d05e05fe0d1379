"""One table of nonlinearities: every way of writing one leads to its row, and all who ask see the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from plasticity_lightning.interventions.unit_functions import NONLINEAR
from plasticity_lightning.measures.activity import saturated
from plasticity_lightning.measures.nonlinearities import (
    CUSTOM,
    LINEAR,
    NONLINEARITIES,
    SPIKING,
    function_names,
    kind_of_function,
    kind_of_module,
)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "relu"),
        (F.relu_, "relu"),
        (torch.relu, "relu"),
        (torch.relu_, "relu"),
        (torch.Tensor.relu, "relu"),
        (torch.Tensor.relu_, "relu"),
        (F.hardtanh, "hardtanh"),
        (F.hardtanh_, "hardtanh"),
        (torch._C._nn.hardtanh, "hardtanh"),
        (F.gelu, "gelu"),
        (F.silu, "silu"),
        (torch.tanh, "tanh"),
        (torch.Tensor.sigmoid, "sigmoid"),
        (torch.Tensor.clamp_, "clamp"),
        (F.threshold, "threshold"),
    ],
)
def test_functions_and_methods_lead_to_their_row(function, name):
    assert kind_of_function(function) is NONLINEARITIES[name]


def test_other_functions_lead_nowhere():
    assert kind_of_function(torch.add) is None
    assert kind_of_function(F.linear) is None
    assert kind_of_module(nn.Linear(1, 1)) is None


@pytest.mark.parametrize("name", [n for n, kind in NONLINEARITIES.items() if kind.modules])
def test_modules_and_functions_of_a_row_compute_the_same(name):
    kind = NONLINEARITIES[name]
    make = {"threshold": lambda: nn.Threshold(0.0, 0.0)}.get(name, kind.modules[0])
    module = make().eval()
    assert kind_of_module(module) is kind
    x = torch.linspace(-9, 9, 181).unsqueeze(0)
    arguments = {"prelu": (torch.tensor([0.25]),), "threshold": (0.0, 0.0)}.get(name, ())
    function = getattr(F, name, None) or getattr(torch, name)
    assert torch.equal(module(x), function(x, *arguments))
    if kind.signed:  # the sign of the output is that of the input
        assert torch.equal(module(x) > 0, x > 0)
    if kind.saturated is not None:  # a saturated entry passes no gradient, an unsaturated one of this grid does
        z = x.clone().requires_grad_()
        out = module(z)
        (gradient,) = torch.autograd.grad(out.sum(), z)
        at_bound = kind.saturated(out.detach())
        assert (gradient[at_bound].abs() < 0.02).all()
        assert at_bound.any()
        assert float(saturated(out, name)) == float(at_bound.double().mean())


def test_subclasses_and_spiking_nodes_are_known_by_their_bases():
    class Mine(nn.ReLU6):
        pass

    class BaseNode(nn.Module):
        pass

    class Node(BaseNode):
        pass

    BaseNode.__module__ = "spikingjelly.activation_based.base"
    assert kind_of_module(Mine()) is NONLINEARITIES["relu6"]
    assert kind_of_module(Node()) is SPIKING
    BaseNode.__module__ = "elsewhere"
    assert kind_of_module(Node()) is None


def test_what_each_kind_admits():
    admitted = {
        kind.name: {k for k in ("any", "signed", "bounded", "elementwise", "spiking") if kind.admits(k)}
        for kind in (NONLINEARITIES["relu"], NONLINEARITIES["relu6"], NONLINEARITIES["rrelu"], SPIKING, CUSTOM, LINEAR)
    }
    assert admitted == {
        "relu": {"any", "signed", "elementwise"},
        "relu6": {"any", "signed", "bounded", "elementwise"},
        "rrelu": {"any", "signed"},
        "spiking": {"any", "signed", "spiking"},
        "custom": {"any", "signed", "spiking"},
        "linear": {"any"},
    }


def test_units_are_followed_through_the_same_functions():
    assert function_names() == NONLINEAR
    assert {"relu", "relu_", "hardtanh", "clamp", "sin"} <= NONLINEAR
