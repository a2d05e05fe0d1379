"""Groups and their values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.measures.activity import fau
from plasticity_lightning.measures.aggregate import combine, group_values, match_groups, tag
from plasticity_lightning.measures.weights import weight_norm

LAYERS = ["encoder.0", "actor.0", "critic.q1.0", "critic.q1.2", "critic.q2.0"]


def scalars(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(v) for v in values]


def test_groups_by_pattern_keep_the_order_of_layers():
    groups = match_groups({"critic": "critic.*", "heads": ["critic.q2.*", "actor.*"]}, LAYERS)
    assert groups == {
        "critic": ["critic.q1.0", "critic.q1.2", "critic.q2.0"],
        "heads": ["actor.0", "critic.q2.0"],
        "network": LAYERS,
    }
    assert match_groups({}, LAYERS, network=False) == {}
    assert match_groups({"network": "actor.*"}, LAYERS) == {"network": ["actor.0"]}
    with pytest.raises(
        ValueError, match=r"'critics\.\*' of group 'c' matches no layer; there are .*did you mean 'critic"
    ):
        match_groups({"c": "critics.*"}, LAYERS)


def test_combinations_by_hand():
    values = scalars(0.5, 1.0)
    assert combine(values, "units", [3, 1]) == 0.625  # (1.5 + 1) / 4
    assert combine(values, "mean") == 0.75
    assert combine(scalars(3.0, 4.0), "root_sum_square") == 5.0
    assert combine(values, "max") == 1.0
    for rule in ("mean", "root_sum_square", "max"):
        assert combine([*values, torch.tensor(torch.nan)], rule).isnan()
    with pytest.raises(ValueError, match="2 layers, units=None"):
        combine(values, "units")
    with pytest.raises(ValueError, match="rule='median'"):
        combine(values, "median")
    with pytest.raises(ValueError, match="empty"):
        combine([])


def test_values_of_groups_and_their_tags():
    values = {"a": torch.tensor(1.0), "b": torch.tensor(0.0)}
    out = group_values(values, {"x": ["a"], "network": ["a", "b"]}, "units", {"a": 1, "b": 3})
    assert out["x"] == 1.0
    assert out["network"] == 0.25
    assert tag("fau", "critic") == "plasticity/fau/critic"
    assert tag("fau", "critic", "q1.0") == "plasticity/fau/critic/q1.0"
    with pytest.raises(ValueError, match=r"group 'x' names layers without a value or size: \['c'\]"):
        group_values(values, {"x": ["a", "c"]})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_layers_combine_to_the_measure_of_the_whole(seed, n_layers):
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.randn(4, 2 + i, generator=generator).relu() for i in range(n_layers)]
    sizes = [layer.shape[1] for layer in layers]
    assert combine([fau(a) for a in layers], "units", sizes) == pytest.approx(float(fau(*layers)))
    whole = torch.cat([a.flatten() for a in layers])
    parts = combine([weight_norm(a) for a in layers], "root_sum_square")
    assert parts == pytest.approx(float(weight_norm(whole)), rel=1e-6)
