"""The GPU engine of the liquid against the CPU engine. Run by `test_gpu.py`: small in numba's CUDA simulator, or at full size on a GPU.

Not collected by itself, since numba must be told to simulate before it is imported.
"""

from __future__ import annotations

import os

import pytest
import torch

from plasticity_lightning.errors import UserError
from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains, rate_encode, sample_keys
from plasticity_lightning.spiking.liquid import LiquidState, NeuronParameters, auto, engine, gpu
from plasticity_lightning.spiking.liquid.topology import Liquid, grid_liquid
from plasticity_lightning.spiking.rules import APSTDP, STDP

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
SHAPE, N_INPUTS, N_STEPS, THREADS = ((2, 2, 2), 8, 16, 2) if SIMULATED else ((10, 10, 10), 784, 250, 256)
RATE, DENSITY = (0.9, 0.8) if SIMULATED else (0.05, 0.15)

NEURON = NeuronParameters(v_threshold=4.0 if SIMULATED else 20.0)  # a few inputs must do in a small liquid


@pytest.fixture(autouse=True)
def _block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated thread is a thread of Python: a few must do, but more than one, so that they can get into each other's way."""
    monkeypatch.setattr(gpu, "BLOCK", THREADS)


def liquid_and_input(n_samples: int, n_steps: int = N_STEPS) -> tuple[Liquid, SpikeTrains]:
    generator = torch.Generator().manual_seed(0)
    liquid = grid_liquid(SHAPE, N_INPUTS, input_density=DENSITY, generator=generator)
    probability = torch.rand(n_samples, N_INPUTS, generator=generator) * RATE
    return liquid, rate_encode(probability, sample_keys(0, torch.arange(n_samples)), n_steps)


def assert_same(liquid: Liquid, inputs: SpikeTrains, state: LiquidState, **arguments: object) -> None:
    arguments = {
        "neuron": NEURON,
        "rule": STDP(),
        "astrocyte": Astrocyte(weight=0.05),
        "weights": "private",
        **arguments,
    }
    expected, after = engine("cpu")(liquid, inputs, state, record=True, **arguments)
    actual, after_gpu = engine("gpu")(liquid, inputs, state, record=True, **arguments)
    assert int(expected.counts.sum()) > 10, "a silent liquid compares nothing"
    for name in ("counts", "n_liquid", "n_input", "modulation", "spikes"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    for name in ("weight", "trace", "calcium"):
        if getattr(after, name) is not None:
            assert torch.equal(getattr(after_gpu, name), getattr(after, name)), name


@pytest.mark.parametrize(
    "case",
    [
        {"rate_decay": 0.99},
        {"rule": APSTDP(theta=1.0, delta=0.8), "astrocyte": None},
        {"rule": None, "astrocyte": None},
        {
            "neuron": NeuronParameters(tau_syn=2.0, tau_mem=30.0, refractory=0, v_threshold=NEURON.v_threshold),
            "astrocyte": Astrocyte(density=0.5),
        },
    ],
    ids=["nalsm", "ap-stdp", "static", "other-neuron"],
)
def test_private_weights(case: dict) -> None:
    liquid, inputs = liquid_and_input(1 if SIMULATED else 4)
    assert_same(liquid, inputs, LiquidState(liquid.weight.double()), **case)


def test_carried_weights_traces_and_calcium() -> None:
    liquid, inputs = liquid_and_input(2, N_STEPS // 2)
    state = LiquidState(
        liquid.weight.double(), torch.zeros(liquid.n_sources), torch.full((liquid.n_neurons,), 1.0).double()
    )
    assert_same(liquid, inputs, state, weights="carried", rule=APSTDP(theta=1.2, delta=1.0), astrocyte=None)
    assert_same(liquid, inputs, LiquidState(liquid.weight.double()), weights="carried")


def test_more_than_32_neurons_and_channels() -> None:
    generator = torch.Generator().manual_seed(1)
    liquid = grid_liquid((3, 3, 4), 35, generator=generator)
    probability = torch.full((1, 35), 0.5)
    assert_same(
        liquid, rate_encode(probability, sample_keys(0, torch.arange(1)), 8), LiquidState(liquid.weight.double())
    )


def test_samples_that_do_not_fit_together_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    liquid, inputs = liquid_and_input(3, 10)
    each = gpu.bytes_per_sample(liquid, inputs, True)
    monkeypatch.setattr(gpu, "free_memory", lambda: 2.3 * each)
    assert_same(liquid, inputs, LiquidState(liquid.weight.double()))
    monkeypatch.setattr(gpu, "free_memory", lambda: 0.5 * each)
    with pytest.raises(UserError, match=r"one sample of this liquid .* at most about \d+ edges would fit"):
        assert_same(liquid, inputs, LiquidState(liquid.weight.double()))


def test_auto_picks_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    liquid, inputs = liquid_and_input(2, 5)
    ran = []
    for name in ("simulate_cpu", "simulate_gpu"):
        monkeypatch.setattr(auto, name, lambda *given, name=name, **arguments: ran.append(name))
    arguments = {"neuron": NEURON, "rule": STDP(), "astrocyte": None}
    state = LiquidState(liquid.weight.double())
    engine("auto")(liquid, inputs, state, weights="private", **arguments)
    engine("auto")(liquid, inputs, state, weights="carried", **arguments)  # one after the other: a CPU core is faster
    engine("auto")(
        liquid, inputs, LiquidState(state.weight, torch.zeros(liquid.n_sources)), weights="private", **arguments
    )
    assert ran == ["simulate_gpu", "simulate_cpu", "simulate_cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine("auto") is engine("cpu")
