"""The GPU engine against the CPU engine. Run by `test_gpu.py`: small in numba's CUDA simulator, or at full size on a GPU.

Not collected by itself, since numba must be told to simulate before it is imported.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from plasticity_lightning.errors import UserError
from plasticity_lightning.spiking.reservoir import Drive, Trace, engine, gpu, initial_state
from tests.spiking.reservoir.test_engines import (
    assert_equal_activity,
    assert_equal_states,
    chaotic,
    looped,
    scattered,
    small,
    stimuli,
)

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
N, N_STEPS, THREADS = (7, 20, 2) if SIMULATED else (1000, 1000, 256)


@pytest.fixture(autouse=True)
def _block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated thread is a thread of Python: a few must do, but more than one, so that they can get into each other's way."""
    monkeypatch.setattr(gpu, "BLOCK", THREADS)


def assert_same(reservoir, drive, state, **arguments):
    expected, after = engine("cpu")(reservoir, drive, state, record=True, **arguments)
    actual, after_gpu = engine("gpu")(reservoir, drive, state, record=True, **arguments)
    assert int(expected.counts.sum()) > 5, "a silent reservoir compares nothing"
    assert_equal_activity(actual, expected)
    assert_equal_states(after_gpu, after)


@pytest.mark.parametrize("options", [{"gain_excitatory": 60.0, "noise": 1.0}, {"noise": 0.0}], ids=str)
def test_form_of_2003(options: dict) -> None:
    reservoir = small(n=N, n_lanes=1, **options)
    drive = Drive.intervals(N_STEPS, 2, [[(0, 2, 9), (1, 5, 12, 0.5)]])
    assert_same(reservoir, drive, initial_state(reservoir, [3], v=scattered(reservoir)))


def test_lanes_of_other_lengths_and_more_than_32_neurons() -> None:
    reservoir = small(n=max(N, 37))  # two words of the list of spikes
    drive = Drive.intervals([10, 5], 2, [[(0, 3, 9)], [(1, 0, 10, 0.5)]])
    assert_same(reservoir, drive, initial_state(reservoir, [3, 4], v=scattered(reservoir)))


@pytest.mark.parametrize("learns", [False, True])
def test_capacitance_form_in_a_closed_loop(learns: bool) -> None:
    reservoir, n_steps = chaotic(n=N, n_lanes=2), N_STEPS if SIMULATED else 100 * 50
    loop, readouts = looped(reservoir, 2, n_steps, learns, period=10, forgetting=0.99)
    # fewer steps to a spike
    cells = reservoir.neurons.tensors()
    coarse = replace(reservoir, neurons=replace(reservoir.neurons, **cells, dt=0.4))
    state = initial_state(coarse, [0, 1], v=scattered(coarse), loop=readouts)
    assert_same(coarse, Drive.intervals(n_steps, 0, [[], []]), state, trace=Trace(2.0, 20.0, 4.0), loop=loop)


def test_lanes_that_do_not_fit_together_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    reservoir = small(n=N, n_lanes=3)
    drive = Drive.intervals([10, 5, 10], 2, [[(0, 3, 9)], [], [(1, 2, 9)]])
    each = gpu.bytes_per_lane(reservoir, drive, None, Trace(), True)
    monkeypatch.setattr(gpu, "free_memory", lambda: 2.3 * each)
    assert gpu.lanes_that_fit(each, 2.3 * each) == 2
    v = scattered(reservoir)
    assert_same(reservoir, drive, initial_state(reservoir, [3, 4, 5], v=v))
    loop, readouts = looped(reservoir, 1, 10, True, period=4)
    state = initial_state(reservoir, [3, 4, 5], v=v, loop=readouts)
    each = gpu.bytes_per_lane(reservoir, drive, loop, Trace(), True)
    monkeypatch.setattr(gpu, "free_memory", lambda: 1.2 * each)
    assert_same(reservoir, drive, state, loop=loop)


def test_a_lane_that_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    reservoir = small(n=N)
    monkeypatch.setattr(gpu, "free_memory", lambda: 100.0)
    with pytest.raises(UserError, match=r"one lane of this call needs .* MiB are free.*shorter calls"):
        engine("gpu")(reservoir, stimuli(2), initial_state(reservoir, [0, 1]))


def test_memory_of_a_lane_is_that_of_its_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    reservoir = small(n=64, n_lanes=1)
    loop, readouts = looped(reservoir, 2, 200, True)
    drive, trace = stimuli(1, 200), Trace()
    state = initial_state(reservoir, [0], loop=readouts)
    buffers = gpu.Buffers.of(reservoir, drive, state, trace, loop, True)
    groups = (buffers.inputs, buffers.carried, buffers.loop, buffers.outputs)
    held = sum(array.nbytes for group in groups for name, array in group.items() if name != "table")
    held += 64 * (8 * 6 + 1) + 4 * 2  # scratch, spikes of the step as bytes and as bits
    estimate = gpu.bytes_per_lane(reservoir, drive, loop, trace, True)
    assert 0.98 * held <= estimate <= 1.1 * held


def test_auto_picks_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine("auto") is engine("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine("auto") is engine("cpu")
