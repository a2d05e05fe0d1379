"""Which weights are masked: types, patterns, position, sharing, freezing."""

import warnings

import pytest
import torch
from torch import nn

from plasticity_lightning.sparsity.selection import LAYER_KINDS, Selection, floors_by_name, select_parameters, survey


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
    assert list(select_parameters(Net(), Selection(first_layer="dense", last_layer="dense"))) == ["hidden.weight"]


def test_patterns_and_types():
    assert list(select_parameters(Net(), Selection(include=["*weight"], exclude=["out*"]))) == [
        "conv.weight",
        "hidden.weight",
    ]
    assert list(select_parameters(Net(), Selection(types=["Embedding"]))) == ["embedding.weight"]
    assert list(select_parameters(Net(), Selection(types=["_ConvNd"]))) == ["conv.weight"]


def test_a_whole_name_selects_a_weight_without_autograd():
    assert list(select_parameters(Net(), Selection(include=["local"]))) == ["local"]
    with pytest.raises(ValueError, match=r"include='frozen.\*' matches only parameters that are frozen"):
        select_parameters(Net(), Selection(include=["frozen.*"]))  # a pattern does not: frozen means frozen
    with pytest.raises(ValueError, match="fewer than two dimensions"):
        select_parameters(Net(), Selection(include=["conv.bias"]))
    with pytest.raises(
        ValueError, match=r"no weight is left to mask with include=None, exclude=.*'hidden.weight': 'excluded'"
    ):
        select_parameters(Net(), Selection(exclude=["*"]))


class Conv1D(nn.Module):
    """As in GPT-2 of transformers: x W + b, W [in, out]."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Zoo(nn.Module):
    """What layers keep their weights in."""

    def __init__(self):
        super().__init__()
        self.gpt = Conv1D(6, 4)
        self.lstm = nn.LSTM(6, 5, 2, bidirectional=True, proj_size=3)
        self.cell = nn.GRUCell(6, 5)
        self.attention = nn.MultiheadAttention(6, 2)
        self.separate = nn.MultiheadAttention(6, 2, kdim=3, vdim=4)
        self.up = nn.ConvTranspose1d(2, 3, 2)
        self.experts = nn.Parameter(torch.randn(3, 4, 5))
        self.token = nn.Parameter(torch.randn(1, 6))
        self.table = nn.Embedding(5, 6)
        self.weight_normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
        self.orthogonal = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.old_weight_normed = nn.utils.weight_norm(nn.Linear(4, 3))
            self.old_spectral = nn.utils.spectral_norm(nn.Linear(4, 3))


def test_matrices_of_all_known_kinds_are_taken_and_the_others_said():
    fates = survey(Zoo())
    names = {name for name, p in Zoo().named_parameters() if p.ndim > 1}
    assert set(fates) == names
    masked = {name for name, fate in fates.items() if fate.masked}
    recurrent = {n for n in names if n.startswith(("lstm.weight_", "cell.weight_"))}
    assert len(recurrent) == 2 * 2 * 3 + 2
    attention = {"attention.in_proj_weight", "attention.out_proj.weight", "separate.out_proj.weight"}
    attention |= {f"separate.{part}_proj_weight" for part in "qkv"}
    spectral = {"spectral.parametrizations.weight.original", "old_spectral.weight_orig"}
    assert masked == {"gpt.weight", "up.weight", *recurrent, *attention, *spectral}
    assert all("acts through" in fates[name].reason for name in spectral)
    for name in ("weight_normed.parametrizations.weight.original1", "old_weight_normed.weight_v"):
        assert "make a unit without inputs NaN" in fates[name].reason
    assert "computed by Orthogonal" in fates["orthogonal.parametrizations.weight.original"].reason
    for name in ("experts", "token", "table.weight"):
        assert "a pattern of its own" in fates[name].reason


def test_a_pattern_that_no_layer_answers_to_takes_raw_matrices():
    assert list(select_parameters(Zoo(), Selection(["exp*", "gpt*"]))) == ["experts", "gpt.weight"]
    only_linear = Selection(["*in_proj_weight"], types=["Linear"])
    assert list(select_parameters(Zoo(), only_linear)) == ["attention.in_proj_weight"]
    assert "experts" not in select_parameters(Zoo(), Selection(["*"]))  # it answers for layers


def test_a_structure_over_inputs_refuses_weights_whose_inputs_are_elsewhere():
    selection = Selection(["gpt*"], structure="fan_in")
    with pytest.raises(ValueError, match=r"gpt.weight \(4, 6\) is laid out \[in, out\]: exclude it"):
        select_parameters(Zoo(), selection)
    with pytest.raises(ValueError, match=r"experts \(3, 4, 5\) is no layer that is known"):
        select_parameters(Zoo(), Selection(["experts"], structure="2:4"))
    assert not LAYER_KINDS["_ConvTransposeNd"].outputs_first


def test_compiled_names_are_plain():
    compiled = nn.Module()  # as torch.compile wraps it; compiling itself takes long
    compiled._orig_mod = nn.Sequential(nn.Linear(2, 2))
    net = nn.ModuleDict({"a": compiled})
    assert list(select_parameters(net)) == ["a.0.weight"]


def test_errors():
    with pytest.raises(ValueError, match=r"exclude='head\.\*' matches no parameter"):
        select_parameters(Net(), Selection(exclude=["head.*"]))
    with pytest.raises(ValueError, match="first_layer must be one of sparse, dense"):
        Selection(first_layer="none")
    assert floors_by_name({"*": 0.1, "out*": 0.2}, ["a", "out.weight"]) == {"a": 0.1, "out.weight": 0.2}
    with pytest.raises(ValueError, match="matches no masked weight"):
        floors_by_name({"x": 0.1}, ["a"])
    with pytest.raises(ValueError, match="must lie"):
        floors_by_name({"a": 2}, ["a"])
