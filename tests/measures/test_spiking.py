"""Statistics of spike trains, against hand-worked trains and a literal loop over the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.measures.spiking import (
    branching_factor,
    fano,
    firing_rate,
    isi_cv,
    participation_ratio,
    rate_cv,
    rate_summary,
    silent,
    spike_counts,
    synchrony,
)


def raster(n_steps: int, n_neurons: int, probability: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n_steps, n_neurons, generator=generator) < probability).to(torch.uint8)


def connections(n_neurons: int, density: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    adjacency = torch.rand(n_neurons, n_neurons, generator=generator) < density
    adjacency.fill_diagonal_(False)
    post, pre = adjacency.nonzero(as_tuple=True)
    return pre, post


def branching_factor_by_loops(spikes, pre, post, start=25, stop=225, window=4):
    """The definition, word by word: clip to the usable range, count around each spike, average twice."""
    s = spikes.numpy().astype(int)
    s[:start] = 0
    s[stop:] = 0
    edges = set(zip(pre.tolist(), post.tolist(), strict=True))
    per_neuron = []
    for n in range(s.shape[1]):
        ancestors = [i for i, j in edges if j == n]
        descendants = [j for i, j in edges if i == n]
        ratios = []
        for t in range(start + window, stop - window):
            if s[t, n]:
                before = sum(s[t - k, i] for i in ancestors for k in range(1, window + 1))
                after = sum(s[t + k, j] for j in descendants for k in range(1, window + 1))
                ratios.append(after / max(before, 1))
        if ratios:
            per_neuron.append(np.mean(ratios))
    return float(np.mean(per_neuron)) if per_neuron else math.nan


def test_branching_factor_of_a_chain_by_hand():
    # 0 -> 1 -> 2, and 0 -> 2. Spikes: 0 at 30; 1 at 32 and 34; 2 at 36.
    spikes = torch.zeros(250, 3, dtype=torch.uint8)
    for t, n in [(30, 0), (32, 1), (34, 1), (36, 2)]:
        spikes[t, n] = 1
    pre, post = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2])
    # neuron 0 at 30: descendants 1 and 2 in 31..34: 2 spikes; no ancestor -> 2 / max(0, 1) = 2
    # neuron 1 at 32: after (2 in 33..36) = 1, before (0 in 28..31) = 1 -> 1; at 34: after 1, before (0 in 30..33) = 1
    # -> 1; mean 1 neuron 2 at 36: no descendants -> 0.    Mean of (2, 1, 0) = 1
    assert branching_factor(spikes, pre, post) == 1.0
    # a connection listed twice is one connection
    assert branching_factor(spikes, torch.cat([pre, pre]), torch.cat([post, post])) == 1.0


def test_branching_factor_sees_only_the_usable_range():
    # the ancestor at 24 lies outside 25..225, the spike at 28 lies before 29: only the one at 29 counts; its
    # ancestors 0, descendants 1
    spikes = torch.zeros(250, 2, dtype=torch.bool)
    for t, n in [(24, 1), (28, 0), (29, 0), (33, 1)]:
        spikes[t, n] = True
    pre, post = torch.tensor([0, 1]), torch.tensor([1, 0])
    # neuron 0 at 29: after = 1 at 33 -> 1 / max(0, 1) = 1.  neuron 1 at 33: before = neuron 0 at 29 -> 0 / 1 = 0.
    # mean 0.5
    assert branching_factor(spikes, pre, post) == 0.5
    late = torch.zeros(250, 2, dtype=torch.bool)
    late[221, 0] = True  # the first step that is too late
    assert branching_factor(late, pre, post).isnan()
    late[220, 0] = late[224, 1] = True
    assert branching_factor(late, pre, post) == 1.0
    late[224, 1], late[225, 1] = False, True
    assert branching_factor(late, pre, post) == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.5), st.integers(1, 6))
def test_branching_factor_equals_the_loop_over_the_definition(seed, probability, window):
    spikes = raster(60, 7, probability, seed)
    pre, post = connections(7, 0.4, seed + 1)
    actual = branching_factor(spikes, pre, post, start=5, stop=55, window=window)
    expected = branching_factor_by_loops(spikes, pre, post, 5, 55, window)
    torch.testing.assert_close(float(actual), expected, rtol=1e-12, atol=0, equal_nan=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_branching_factor_does_not_depend_on_the_numbering_of_neurons(seed):
    spikes, (pre, post) = raster(60, 9, 0.2, seed), connections(9, 0.3, seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    rename = torch.argsort(order)
    expected = branching_factor(spikes, pre, post, 5, 55)
    torch.testing.assert_close(branching_factor(spikes[:, order], rename[pre], rename[post], 5, 55), expected)


def test_branching_factor_of_unconnected_neurons_is_zero_and_of_silence_nan():
    none = torch.zeros(0, dtype=torch.long)
    assert branching_factor(raster(250, 5, 0.1, 0), none, none) == 0.0
    assert branching_factor(torch.zeros(250, 5), none, none).isnan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spikes": torch.zeros(250, 2, 3)}, r"\[T, N\]"),
        ({"pre": torch.tensor([0, 1])}, "one length"),
        ({"post": torch.tensor([5])}, r"0\.\.2"),
        ({"stop": 251}, "T=250"),
        ({"window": 0}, "window=0"),
        ({"start": 30, "stop": 38}, "2 \\* window"),
    ],
)
def test_branching_factor_refuses_what_it_cannot_measure(arguments, message):
    given_ = {"spikes": torch.zeros(250, 3), "pre": torch.tensor([0]), "post": torch.tensor([1]), **arguments}
    with pytest.raises(ValueError, match=message):
        branching_factor(**given_)


def test_counts_rates_and_silence_by_hand():
    spikes = torch.zeros(200, 2, 3)  # [T, B, N]
    spikes[0, 0, 0] = spikes[10, 0, 0] = spikes[3, 1, 0] = spikes[7, 1, 2] = 1
    counts = spike_counts(spikes)
    assert counts.tolist() == [[2, 0, 0], [1, 0, 1]]
    assert silent(counts) == pytest.approx(1 / 3)  # neuron 1
    assert firing_rate(counts, 200.0).tolist() == [[10.0, 0.0, 0.0], [5.0, 0.0, 5.0]]  # 2 spikes / 0.2 s = 10 Hz
    # mean counts 1.5, 0, 0.5: mean 2/3, population variance (0.8333^2 + 0.6667^2 + 0.1667^2) / 3 = 0.38889
    assert rate_cv(counts) == pytest.approx(math.sqrt(0.388888888) / (2 / 3), rel=1e-6)
    assert spike_counts(spikes[:, 0]).tolist() == [[2, 0, 0]]


def test_rate_summary_counts_every_neuron_once():
    rates = torch.tensor([0.0, 0.0, 5.0, 10.0])
    summary = rate_summary(rates, quantiles=(0.0, 0.5, 1.0), n_bins=2)
    assert summary.mean == 3.75
    assert summary.quantiles.tolist() == [0.0, 2.5, 10.0]
    assert summary.bin_edges.tolist() == [0.0, 5.0, 10.0]
    assert summary.histogram.tolist() == [2, 2]  # 5.0 is on the inner edge: upper bin
    expected, _ = np.histogram(rates.numpy(), bins=summary.bin_edges.numpy())
    assert summary.histogram.tolist() == expected.tolist()
    assert rate_summary(torch.zeros(3)).histogram.tolist() == [3] + [0] * 31


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_histogram_equals_numpy(seed, n_bins):
    rates = torch.randint(0, 50, (37,), generator=torch.Generator().manual_seed(seed)).double()
    summary = rate_summary(rates, n_bins=n_bins)
    expected, _ = np.histogram(rates.numpy(), bins=summary.bin_edges.numpy())
    assert summary.histogram.tolist() == expected.tolist()
    assert summary.histogram.sum() == 37


def test_isi_cv_by_hand_and_against_scipy():
    spikes = torch.zeros(40, 3)
    spikes[::5, 0] = 1  # a clock: CV 0
    spikes[[0, 1, 4], 1] = 1  # intervals 1, 3: mean 2, population std 1: CV 0.5
    spikes[[3, 9], 2] = 1  # two spikes only: left out
    assert isi_cv(spikes) == pytest.approx(0.25)
    noisy = raster(200, 6, 0.1, 3)
    expected = np.mean([scipy.stats.variation(np.diff(np.flatnonzero(noisy[:, n].numpy()))) for n in range(6)])
    assert isi_cv(noisy) == pytest.approx(expected)
    batch = torch.stack([noisy[:, :3], noisy[:, 3:]], dim=1)  # the same six trains as two recordings of three neurons
    assert isi_cv(batch) == pytest.approx(expected)
    assert isi_cv(torch.zeros(10, 4)).isnan()


def test_isi_cv_and_fano_of_poisson_trains_are_one():
    spikes = raster(20_000, 20, 0.02, 5)
    # Bernoulli steps: geometric intervals have CV sqrt(1 - p) = 0.990, binomial counts Fano 1 - p = 0.98
    assert isi_cv(spikes) == pytest.approx(0.990, abs=0.03)
    assert fano(spikes.reshape(100, 200, 20).sum(1)) == pytest.approx(0.98, abs=0.08)


def test_fano_by_hand():
    # neuron 0: counts 1, 3: mean 2, unbiased variance 2 -> 1; neuron 1: 4, 4 -> 0; neuron 2 silent: left out
    assert fano(torch.tensor([[1, 4, 0], [3, 4, 0]])) == 0.5
    with pytest.raises(ValueError, match="at least 2"):
        fano(torch.ones(1, 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_synchrony_is_bounded_by_the_number_of_neurons(seed, n_neurons):
    spikes = raster(50, n_neurons, 0.3, seed)
    value = synchrony(spikes)
    assert 0 <= value <= n_neurons + 1e-9
    together = spikes[:, :1].expand(-1, n_neurons)
    if 0 < together[:, 0].sum() < 50:
        assert synchrony(together) == pytest.approx(n_neurons)


def test_synchrony_of_independent_neurons_is_one_and_of_turn_takers_zero():
    assert synchrony(raster(20_000, 10, 0.1, 1)) == pytest.approx(1.0, abs=0.05)
    turns = torch.eye(4).repeat(10, 1)  # exactly one spike every step: the population count never varies
    assert synchrony(turns) == pytest.approx(0.0, abs=1e-12)
    assert synchrony(torch.zeros(5, 3)).isnan()


def test_participation_ratio_by_hand():
    # two orthogonal directions of equal variance among three neurons
    rates = torch.tensor([[1.0, 0.0, 5.0], [-1.0, 0.0, 5.0], [0.0, 1.0, 5.0], [0.0, -1.0, 5.0]])
    assert participation_ratio(rates) == pytest.approx(2.0)
    assert participation_ratio(torch.tensor([[1.0, 2.0], [2.0, 4.0], [4.0, 8.0]])) == pytest.approx(
        1.0
    )  # one direction
    assert participation_ratio(torch.ones(4, 3)) == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 9), st.floats(0.1, 50.0))
def test_participation_ratio_is_scale_free_and_equals_numpy(seed, n_recordings, n_neurons, scale):
    rates = torch.randn(n_recordings, n_neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = participation_ratio(rates)
    eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(rates.numpy(), rowvar=False)))
    assert value == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-6)
    assert participation_ratio(scale * rates + 3) == pytest.approx(float(value), rel=1e-6)
    assert 1 - 1e-9 <= value <= min(n_recordings - 1, n_neurons) + 1e-9
