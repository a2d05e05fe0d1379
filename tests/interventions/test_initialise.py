"""New weights come from the layer's own initialiser, reproducibly, and leave no trace in the run."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

from plasticity_lightning.interventions.initialise import (
    derive_seed,
    fresh_layer,
    fresh_state,
    fresh_values,
    resettable_layers,
    select_layers,
)


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


def test_fresh_weights_are_those_of_a_new_layer_under_the_same_seed():
    layer = nn.Linear(5, 4)
    torch.manual_seed(11)
    expected = nn.Linear(5, 4)
    state = torch.get_rng_state()
    new = fresh_layer(layer, 11)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(new.weight, expected.weight)
    assert torch.equal(new.bias, expected.bias)
    assert not torch.equal(new.weight, layer.weight)


def test_fresh_weights_have_the_statistics_of_the_initialiser():
    # torch's Linear draws uniformly from +-1/sqrt(fan_in) = +-0.1: standard deviation 0.1 / sqrt(3) = 0.0577
    layer = nn.Linear(100, 200)
    layer.weight.data.fill_(7.0)
    weight = fresh_layer(layer, 0).weight
    assert weight.abs().max() <= 0.1
    assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_an_init_function_is_applied_as_module_apply_does():
    def orthogonal(module):
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
            nn.init.zeros_(module.bias)

    new = fresh_layer(nn.Linear(4, 4), 0, orthogonal)
    torch.testing.assert_close(new.weight @ new.weight.T, torch.eye(4), atol=1e-5, rtol=0)
    assert not new.bias.any()
    filled = fresh_layer(Owner(), 0, lambda m: m.scale.fill_(2.0))
    assert filled.scale.tolist() == [2.0, 2.0, 2.0]


def test_frozen_parameters_and_their_buffers_are_left_out():
    norm = nn.BatchNorm1d(2)
    assert len(list(fresh_values(norm, 0))) == 5  # weight, bias, running mean and variance, count
    norm.weight.requires_grad_(False)
    assert len(list(fresh_values(norm, 0))) == 4
    norm.bias.requires_grad_(False)
    assert list(fresh_values(norm, 0)) == []


def test_a_parametrised_weight_is_reset_where_it_is_stored():
    layer = parametrizations.spectral_norm(nn.Linear(3, 3))
    torch.manual_seed(2)
    expected = nn.Linear(3, 3)
    pairs = list(fresh_values(layer, 2))
    assert {id(t) for t, _ in pairs} >= {id(layer.bias), id(layer.parametrizations.weight.original)}
    (new,) = [new for t, new in pairs if t is layer.parametrizations.weight.original]
    assert torch.equal(new, expected.weight)
    assert parametrize.is_parametrized(layer)
    assert layer(torch.ones(1, 3)).shape == (1, 3)  # it still has its weight


@pytest.mark.parametrize("layer", [lambda: nn.Linear(3, 4), lambda: nn.Conv1d(2, 4, 3)])
def test_a_weight_computed_from_several_tensors_is_reset_through_them(layer):
    normed = nn.Sequential(parametrizations.weight_norm(layer()))
    before = [p.clone() for p in normed.parameters()]
    torch.manual_seed(2)
    expected = layer()
    pairs = list(fresh_values(normed, 2))
    assert {id(t) for t, _ in pairs} == {id(p) for p in normed.parameters()}
    assert all(torch.equal(p, old) for p, old in zip(normed.parameters(), before, strict=True))
    with torch.no_grad():
        for tensor, new in pairs:
            tensor.copy_(new)
    assert torch.allclose(normed[0].weight, expected.weight, atol=1e-6)
    assert torch.equal(normed[0].bias, expected.bias)
    assert set(fresh_state(normed, 2)) == {name for name, _ in normed.named_parameters()}


def test_old_style_weight_norm_is_refused():
    with pytest.warns(FutureWarning):
        layer = weight_norm(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="old-style"):
        fresh_layer(layer, 0)


def test_seeds_differ_by_root_event_and_name_and_are_stable():
    seeds = {derive_seed(s, e, n) for s in range(3) for e in range(3) for n in ("a", "b", "1/a")}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, 0, "head") == derive_seed(0, 0, "head")


def net():
    return nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten()),
            "attention": nn.MultiheadAttention(4, 2),
            "head": nn.ModuleDict({"hidden": nn.Linear(4, 4), "out": nn.Linear(4, 1)}),
        }
    )


def test_layers_are_the_smallest_parts_that_reset_themselves_whole():
    # attention resets its projections itself, in its own way
    assert list(resettable_layers(net())) == ["encoder.0", "attention", "head.hidden", "head.out"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("*", ["encoder.0", "attention", "head.hidden", "head.out"]),
        ("head", ["head.hidden", "head.out"]),
        (["head.out", "encoder*"], ["encoder.0", "head.out"]),
        ("head.*", ["head.hidden", "head.out"]),
    ],
)
def test_patterns_choose_layers_in_order_of_definition(patterns, expected):
    assert list(select_layers(net(), patterns)) == expected


def test_what_cannot_be_chosen_is_told():
    with pytest.raises(ValueError, match=r"'haed' matches no module.*head"):
        select_layers(net(), "haed")
    with pytest.raises(ValueError, match=r"cannot re-initialise 'a' .Owner.*reset_parameters"):
        select_layers(nn.ModuleDict({"a": Owner()}), "*")
    assert list(select_layers(nn.ModuleDict({"a": Owner()}), "*", init=lambda m: None)) == ["a"]
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    with pytest.raises(ValueError, match=r"b.weight is the same parameter as a.weight, which is not chosen"):
        select_layers(tied, "b")
    assert list(select_layers(tied, "*")) == ["a", "b"]
