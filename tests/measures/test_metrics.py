"""The torchmetrics: equal to the functions, to one pass over all data, and to what DDP would reduce."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import Metric

from plasticity_lightning.measures.activity import activation_norm, dormant, ever_active, fau, saturated
from plasticity_lightning.measures.metrics import (
    ActiveFraction,
    FeatureRank,
    MeanOf,
    Saturated,
    SpikeStatistics,
    UnitActivity,
)
from plasticity_lightning.measures.rank import feature_ranks
from plasticity_lightning.measures.spiking import fano, firing_rate, rate_cv, silent


def layer(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu()


def counts(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed))


def reduced(shards: list[Metric]) -> Metric:
    """What the ranks hold after torchmetrics has synchronised: each state reduced by its own `dist_reduce_fx`."""
    whole = copy.deepcopy(shards[0])
    for name, reduction in whole._reductions.items():
        states = [getattr(shard, name) for shard in shards]
        if isinstance(states[0], list):  # a list state is gathered from all ranks, then concatenated
            setattr(whole, name, reduction([entry for state in states for entry in state]))
        else:
            setattr(whole, name, reduction(torch.stack(states)))
    whole._computed = None
    return whole


MAKERS = {
    "active": (ActiveFraction, layer),
    "units": (lambda: UnitActivity(5, tau=0.4), layer),
    "spatial": (lambda: UnitActivity(5, unit_mask=torch.tensor([True, True, False, True, True])), layer),
    "saturated": (lambda: Saturated("hardtanh"), layer),
    "rank": (FeatureRank, layer),
    "spikes": (lambda: SpikeStatistics(5, duration=100.0), counts),
    "mean": (lambda: MeanOf(activation_norm), layer),
}


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 6), min_size=3, max_size=6))
def test_two_shards_reduce_to_the_whole(name, seed, sizes):
    make, draw = MAKERS[name]
    batches = [draw(seed + i, size, 5) for i, size in enumerate(sizes)]
    whole, shards = make(), [make(), make()]
    for i, batch in enumerate(batches):
        whole.update(batch)
        shards[i % 2].update(batch)
    assert_same_value(reduced(shards).compute(), whole.compute())
    shards[0].merge_state(shards[1])  # torchmetrics' own merge agrees
    assert_same_value(shards[0].compute(), whole.compute())


def assert_same_value(actual: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        actual, expected = list(actual.values()), list(expected.values())
    pairs = zip(actual, expected, strict=True) if isinstance(expected, (list, tuple)) else [(actual, expected)]
    for a, e in pairs:
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(e), rtol=1e-9, atol=1e-12, equal_nan=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_unit_activity_equals_the_functions_on_all_the_data(seed, spatial):
    batches = [layer(seed + i, 3, 4, 2, 2) * torch.tensor([1.0, 0.0, 0.1, 2.0])[:, None, None] for i in range(3)]
    metric = UnitActivity(16 if spatial else 4, spatial_units=spatial, tau=0.2)
    for batch in batches:
        metric.update(batch)
    whole = torch.cat(batches)
    value = metric.compute()
    assert value["fau"] == pytest.approx(float(fau(whole)))
    assert value["ever_active"] == ever_active(whole, spatial_units=spatial)
    assert value["dormant"] == dormant(whole, 0.2, spatial_units=spatial)
    rates = metric.unit_rates()
    assert rates.shape == ((16,) if spatial else (4,))
    assert rates.mean() == pytest.approx(float(fau(whole)))


def test_several_layers_and_several_calls_accumulate():
    metric = ActiveFraction()
    metric.update(torch.ones(2, 1), torch.zeros(2, 3))  # 2 of 8
    metric.update(torch.ones(4, 1))  # 4 of 4
    assert metric.compute() == 0.5
    metric.reset()
    metric.update(torch.zeros(1, 1))
    assert metric.compute() == 0.0


def test_counts_do_not_saturate_where_float32_would():
    metric = ActiveFraction()
    metric.count += 2**24
    metric.total += 2**25
    metric.update(torch.tensor([[1.0, 0.0]]))
    assert metric.count == 2**24 + 1  # float32 holds 2**24 + 1 as 2**24
    assert metric.total == 2**25 + 2


def test_nothing_was_measured_is_nan_and_rank_says_so():
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert ActiveFraction().compute().isnan()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(v.isnan() for v in UnitActivity(3).compute().values())
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(v.isnan() for v in SpikeStatistics(3, 10.0).compute().values())
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(ValueError, match="no features"),
    ):
        FeatureRank().compute()
    synchronised = FeatureRank()
    synchronised.features = torch.empty(0)  # what gathering empty lists leaves
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(ValueError, match="no features"),
    ):
        synchronised.compute()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_spike_statistics_equal_the_functions(seed, n):
    c = counts(seed, n, 6) * torch.tensor([0, 1, 1, 1, 5, 9])
    metric = SpikeStatistics(6, duration=200.0)
    for part in c.split(2):
        metric.update(part)
    value = metric.compute()
    assert value["silent"] == silent(c)
    assert value["firing_rate"] == pytest.approx(float(firing_rate(c, 200.0).mean()))
    assert value["rate_cv"] == pytest.approx(float(rate_cv(c)), nan_ok=True)
    assert value["fano"] == pytest.approx(float(fano(c)), nan_ok=True)


def test_ranks_saturation_and_means_equal_the_functions():
    a, b = layer(0, 4, 3, 2, 2), layer(1, 5, 3, 2, 2)
    rank = FeatureRank(center=True, delta=0.1, share=0.8)
    rank.update(a)
    rank.update(b)
    pooled = torch.cat([a, b]).mean((2, 3))
    expected = feature_ranks(pooled, 0.1, 0.8, center=True)
    for x, y in zip(rank.compute(), expected, strict=True):
        assert float(x) == pytest.approx(float(y), rel=1e-6)
    saturation = Saturated("tanh")
    for batch in (a, b):
        saturation.update(batch)
    assert saturation.compute() == saturated(torch.cat([a, b]), "tanh")
    mean = MeanOf(activation_norm)
    for batch in (a, b):
        mean.update(batch)
    assert mean.compute() == pytest.approx(float(activation_norm(a) + activation_norm(b)) / 2)


def test_the_mask_follows_the_metric_to_its_device_and_is_not_in_checkpoints():
    metric = UnitActivity(2, unit_mask=torch.tensor([True, False]))
    metric.update(torch.tensor([[0.0, 1.0]]))
    assert metric.to("cpu").compute()["fau"] == 0.0
    assert "unit_mask" not in metric.state_dict()


def test_bad_shapes_are_refused_at_once():
    with pytest.raises(ValueError, match="n_units=3"):
        UnitActivity(3).update(torch.ones(2, 4))
    with pytest.raises(ValueError, match="n_units=0"):
        UnitActivity(0)
    with pytest.raises(ValueError, match="did you mean 'tanh'"):
        Saturated("tan")
    with pytest.raises(ValueError, match="duration=0"):
        SpikeStatistics(3, 0)
    with pytest.raises(ValueError, match="n_units=3"):
        SpikeStatistics(3, 1.0).update(torch.ones(2, 4))
