"""`CondensedLinear` as a module: made from a Linear, saved, loaded, moved, trained."""

import copy
import pickle

import pytest
import torch
from torch import nn

from plasticity_lightning.sparsity.condensed import CondensedLinear
from tests.sparsity.condensed.cases import masked_linear


def test_to_dense_is_the_inverse():
    linear = masked_linear(9, 8, 3, "ablated")
    back = CondensedLinear.from_dense(linear).to_dense()
    assert torch.equal(back.weight, linear.weight)
    assert torch.equal(back.bias, linear.bias)
    assert CondensedLinear.from_dense(nn.Linear(3, 2, bias=False)).to_dense().bias is None


def test_state_dict_copy_and_pickle_give_the_same_layer():
    layer = CondensedLinear.from_dense(masked_linear(9, 8, 3, "ragged"))
    fresh = CondensedLinear(9, 8, *layer.values.shape)
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(2, 9)
    for other in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))


def test_positions_of_a_file_are_checked():
    layer = CondensedLinear.from_dense(masked_linear(9, 8, 3, "constant"))
    for name, wrong in (("index", 9), ("counts", 4), ("rows", 8)):
        state = {key: value.clone() for key, value in layer.state_dict().items()}
        state[name].fill_(wrong)
        with pytest.raises(ValueError, match=rf"{name} of a condensed layer must lie in \[0, {wrong}\)"):
            CondensedLinear(9, 8, *layer.values.shape).load_state_dict(state)


def test_a_trained_step_is_that_of_the_masked_dense_layer():
    linear = masked_linear(9, 8, 3, "ragged")
    mask = linear.weight != 0
    layer = CondensedLinear.from_dense(linear)
    x = torch.randn(20, 9)
    for module in (linear, layer):
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                linear.weight.mul_(mask)
    torch.testing.assert_close(layer.to_dense().weight, linear.weight)
    torch.testing.assert_close(layer.bias, linear.bias)


def test_double_converts_values_alone():
    layer = CondensedLinear.from_dense(masked_linear(9, 8, 3, "constant")).double()
    assert (layer.values.dtype, layer.index.dtype) == (torch.float64, torch.int16)
    assert layer(torch.ones(1, 9, dtype=torch.float64)).dtype == torch.float64


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"rows=9 must lie in \[0, out_features=8\]"):
        CondensedLinear(4, 8, 9, 2)
    with pytest.raises(ValueError, match=r"fan_in=5 in \[0, 4\]"):
        CondensedLinear(4, 8, 8, 5)


def test_repr_says_sizes():
    text = repr(CondensedLinear.from_dense(masked_linear(9, 8, 3, "constant")))
    assert text == "CondensedLinear(in_features=9, out_features=8, rows=8, fan_in=3, bias=True)"
