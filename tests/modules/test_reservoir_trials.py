"""Trials of the reservoir: the state is passed in and returned, a cache gives what a simulation gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plasticity_lightning.data import PredictionTaskDataModule
from plasticity_lightning.modules.reservoir_trials import CarriedState, ReservoirTrials, lanes_of
from plasticity_lightning.spiking.reservoir import ReservoirOptions


def trials(cache_dir: str | None = None) -> ReservoirTrials:
    return ReservoirTrials(ReservoirOptions(n_neurons=30, n_channels=5), 3, "cpu", 1, cache_dir)


def equal(a: CarriedState, b: CarriedState) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)


def test_a_trial_leaves_the_given_state_alone_and_goes_on_from_it() -> None:
    data, reservoir = PredictionTaskDataModule(lanes=2), trials()
    start = reservoir.start(2)
    before = {name: value.clone() for name, value in start.items()}
    _, _, after = reservoir.run(data.trial(0), start)
    assert equal(start, before)
    assert after["step"].tolist() == data.trial(0)["duration_ms"].tolist()
    traces, spikes, _ = reservoir.run(data.trial(1), after)
    assert traces.shape == (2, 260, 30)  # 1300 ms in samples of 5
    assert int(spikes.sum()) > 0
    fresh, _, _ = reservoir.run(data.trial(1), start)
    assert not torch.equal(traces, fresh)


def test_a_cache_gives_what_a_simulation_gives_and_is_passed_by_where_asked(tmp_path: Path) -> None:
    data, kept, plain = PredictionTaskDataModule(lanes=2), trials(str(tmp_path)), trials()
    kept.run(data.trial(0), kept.start(2), cached=False)
    assert not list(tmp_path.rglob("*.npz"))
    for _ in range(2):  # simulated, then read
        a, b = (r.run(data.trial(0), r.start(2), interval=True) for r in (kept, plain))
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
        assert equal(a[2], b[2])
        assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_lanes_of_a_batch_are_a_slice() -> None:
    assert lanes_of({"lane": torch.tensor([2, 3])}) == range(2, 4)
    with pytest.raises(ValueError, match="contiguous"):
        lanes_of({"lane": torch.tensor([0, 2])})
