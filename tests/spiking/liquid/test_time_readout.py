"""Readout windows over time: bins share the steps out, traces are those of a neuron that is read after the last step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.spiking.liquid.time_readout import time_windows, windowed_counts


def test_five_steps_in_two_bins_and_a_trace() -> None:
    windows = time_windows(5, 2, [2.0])
    assert windows[:2].tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]  # step t is in bin 2 t // 5
    expected = [math.exp(-2), math.exp(-1.5), math.exp(-1), math.exp(-0.5), 1.0]
    torch.testing.assert_close(windows[2], torch.tensor(expected))


@given(n_steps=st.integers(1, 60), data=st.data())
def test_each_step_is_in_one_bin_and_bins_are_equal(n_steps: int, data: st.DataObject) -> None:
    n_bins = data.draw(st.integers(1, n_steps))
    windows = time_windows(n_steps, n_bins)
    assert windows.sum(0).tolist() == [1.0] * n_steps
    lengths = windows.sum(1)
    assert float(lengths.max() - lengths.min()) <= 1


def test_features_are_bins_then_traces_neuron_by_neuron() -> None:
    spikes = torch.zeros(1, 4, 2, dtype=torch.uint8)
    spikes[0, 0, 0] = spikes[0, 2, 0] = spikes[0, 3, 1] = 1
    features = windowed_counts(spikes, time_windows(4, 2, [1.0]))
    # neuron 0 fires at 0 and 2, neuron 1 at 3; a trace of 1 ms falls to 1/e a step
    torch.testing.assert_close(features, torch.tensor([[1, 0, 1, 1, math.exp(-3) + math.exp(-1), 1.0]]))


@given(seed=st.integers(0, 1000), n_bins=st.integers(1, 12))
def test_bins_add_up_to_the_count(seed: int, n_bins: int) -> None:
    spikes = (torch.rand(3, 12, 5, generator=torch.Generator().manual_seed(seed)) < 0.3).to(torch.uint8)
    bins = windowed_counts(spikes, time_windows(12, n_bins)).view(3, n_bins, 5)
    assert torch.equal(bins.sum(1), spikes.sum(1).float())


def test_no_sample_gives_no_row() -> None:
    assert windowed_counts(torch.zeros(0, 4, 3, dtype=torch.uint8), time_windows(4, 2)).shape == (0, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "n_steps=0"),
        ((4, 5), r"n_bins=5 must lie in \[1, 4\]"),
        ((4, 0), "n_bins=0"),
        ((4, 1, [0.0]), "taus"),
        ((4, 1, [2.0, 2.0]), "distinct"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        time_windows(*arguments)
    with pytest.raises(ValueError, match="last 3 steps"):
        windowed_counts(torch.zeros(1, 3, 2), time_windows(4))
