"""The engines agree spike for spike, with each other and with a naive per-synapse simulator written from the specification."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains, rate_encode, sample_keys
from plasticity_lightning.spiking.liquid import LiquidState, NeuronParameters, engine
from plasticity_lightning.spiking.liquid.cpu import simulate_cpu
from plasticity_lightning.spiking.liquid.reference import simulate_reference
from plasticity_lightning.spiking.liquid.topology import Liquid, grid_liquid
from plasticity_lightning.spiking.rules import APSTDP, STDP


def liquid_and_input(
    shape: tuple[int, int, int] = (4, 5, 5),
    n_inputs: int = 40,
    n_samples: int = 3,
    n_steps: int = 100,
    seed: int = 0,
    rate: float = 0.1,
) -> tuple[Liquid, SpikeTrains]:
    generator = torch.Generator().manual_seed(seed)
    liquid = grid_liquid(shape, n_inputs, generator=generator)
    probability = torch.rand(n_samples, n_inputs, generator=generator) * rate
    return liquid, rate_encode(probability, sample_keys(seed, torch.arange(n_samples)), n_steps)


def assert_same(liquid: Liquid, inputs: SpikeTrains, state: LiquidState, **arguments: object) -> None:
    arguments = {
        "neuron": NeuronParameters(),
        "rule": STDP(),
        "astrocyte": Astrocyte(),
        "weights": "private",
        **arguments,
    }
    expected, after = simulate_reference(liquid, inputs, state, record=True, **arguments)
    actual, after_cpu = simulate_cpu(liquid, inputs, state, record=True, **arguments)
    assert int(expected.counts.sum()) > 20, "a silent liquid compares nothing"
    assert torch.equal(actual.spikes, expected.spikes)
    assert torch.equal(actual.counts, expected.counts)
    assert torch.equal(actual.n_liquid, expected.n_liquid)
    assert torch.equal(actual.n_input, expected.n_input)
    torch.testing.assert_close(actual.modulation, expected.modulation, rtol=0, atol=1e-12)
    torch.testing.assert_close(after_cpu.weight, after.weight, rtol=0, atol=1e-10)
    for name in ("trace", "calcium"):
        if getattr(after, name) is not None:
            torch.testing.assert_close(getattr(after_cpu, name), getattr(after, name), rtol=0, atol=1e-10)


@pytest.mark.parametrize("weights", ["private", "carried"])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"rate_decay": 0.99},
        {"astrocyte": None},
        {"astrocyte": Astrocyte(density=0.3, seed=4)},
        {"astrocyte": Astrocyte(weight=0.5)},
        {"rule": APSTDP(theta=4.0, delta=3.0), "astrocyte": None},
        {"rule": None, "astrocyte": None},
        {"neuron": NeuronParameters(tau_syn=2.0, tau_mem=30.0, refractory=0)},
    ],
    ids=["nalsm", "decaying", "stdp", "sparse-astrocyte", "strong-astrocyte", "ap-stdp", "static", "other-neuron"],
)
def test_cpu_engine_equals_the_dense_reference(case: dict, weights: str) -> None:
    liquid, inputs = liquid_and_input()
    weight = liquid.weight.double() * (1 / 3 if isinstance(case.get("rule"), APSTDP) else 1.0)
    assert_same(liquid, inputs, LiquidState(weight), weights=weights, **case)


def test_carried_traces_and_calcium_agree() -> None:
    liquid, inputs = liquid_and_input()
    trace, calcium = torch.zeros(liquid.n_sources), torch.full((liquid.n_neurons,), 2.0)
    assert_same(liquid, inputs, LiquidState(liquid.weight, trace=trace))
    rule = APSTDP(theta=5.0, delta=4.0)
    assert_same(
        liquid, inputs, LiquidState(liquid.weight, trace, calcium), rule=rule, astrocyte=None, weights="carried"
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.floats(0.05, 0.6), w_astro=st.floats(0, 0.2))
def test_engines_agree_on_random_liquids(seed: int, rate: float, w_astro: float) -> None:
    liquid, inputs = liquid_and_input((3, 3, 4), 30, 2, 50, seed, rate)
    neuron, state = NeuronParameters(), LiquidState(liquid.weight)
    arguments = {
        "neuron": neuron,
        "rule": STDP(),
        "astrocyte": Astrocyte(weight=w_astro),
        "weights": "private",
        "record": True,
    }
    expected, _ = simulate_reference(liquid, inputs, state, **arguments)
    actual, _ = simulate_cpu(liquid, inputs, state, **arguments)
    assert torch.equal(actual.spikes, expected.spikes)


def test_full_size_liquid_agrees() -> None:
    liquid, inputs = liquid_and_input((10, 10, 10), 784, 1, 40, seed=3, rate=0.05)
    assert_same(liquid, inputs, LiquidState(liquid.weight), rate_decay=0.99)


def test_threads_do_not_change_a_private_simulation() -> None:
    liquid, inputs = liquid_and_input(n_samples=9)
    arguments = {"neuron": NeuronParameters(), "rule": STDP(), "astrocyte": Astrocyte(), "weights": "private"}
    one, _ = simulate_cpu(liquid, inputs, LiquidState(liquid.weight), threads=1, **arguments)
    three, _ = simulate_cpu(liquid, inputs, LiquidState(liquid.weight), threads=3, **arguments)
    assert torch.equal(one.counts, three.counts)
    assert torch.equal(one.modulation, three.modulation)


def test_refractory_neurons_are_never_closer_than_three_steps() -> None:
    liquid, inputs = liquid_and_input(rate=0.9)
    activity, _ = simulate_cpu(
        liquid,
        inputs,
        LiquidState(liquid.weight),
        neuron=NeuronParameters(),
        rule=None,
        astrocyte=None,
        weights="private",
        record=True,
    )
    spikes = activity.spikes
    assert int(spikes.sum()) > 100
    assert not bool((spikes[:, 1:] & spikes[:, :-1]).any())
    assert not bool((spikes[:, 2:] & spikes[:, :-2]).any())
    assert bool((spikes[:, 3:] & spikes[:, :-3]).any())  # three steps apart is allowed, and happens


def test_reference_equals_a_naive_per_synapse_simulator() -> None:
    liquid, inputs = liquid_and_input((3, 3, 3), 12, 1, 60, seed=5, rate=0.4)
    astrocyte, rule, neuron = Astrocyte(weight=0.05), STDP(), NeuronParameters()
    activity, after = simulate_reference(
        liquid,
        inputs,
        LiquidState(liquid.weight),
        neuron=neuron,
        rule=rule,
        astrocyte=astrocyte,
        weights="carried",
        rate_decay=0.99,
        record=True,
    )
    spikes, weight = naive_simulation(liquid, inputs.dense()[:, 0].tolist(), astrocyte.weight)
    assert activity.spikes[0].tolist() == spikes
    assert int(activity.counts.sum()) > 20
    torch.testing.assert_close(after.weight, torch.tensor(weight, dtype=torch.float64), rtol=0, atol=1e-10)


def naive_simulation(liquid: Liquid, pulses: list, w_astro: float) -> tuple[list, list]:
    """Steps 1 to 11 of the published code, synapse by synapse, in plain Python floats."""
    n, size = liquid.n_neurons, liquid.n_sources
    edges = list(zip(liquid.source.tolist(), liquid.target.tolist(), strict=True))
    weight = liquid.weight.double().tolist()
    v, rest, clock, x = [0.0] * size, [0] * size, [20.0] * size, [0.0] * size
    lr, a, b_astro, recorded = 0.15, 0.15, 0.15, []
    for pulse in pulses:
        s = [1 if rest[i] <= 0 and v[i] >= 20 else 0 for i in range(size)]
        v = [0.0 if s[i] else v[i] for i in range(size)]
        clock = [0.0 if s[i] else clock[i] for i in range(size)]
        current = [0.0] * n + [100.0 * p for p in pulse]
        for (j, i), w in zip(edges, weight, strict=True):
            current[i] += w * math.exp(-clock[j])
        v = [v[i] + current[i] - v[i] / 64 for i in range(size)]
        clock = [min(k + 1, 100.0) for k in clock]
        rest = [2 if s[i] else rest[i] - 1 for i in range(size)]
        for e, (j, i) in enumerate(edges):
            if liquid.n_excitatory <= j < n:
                change, low, high = -a * x[j] * s[i] + lr * x[i] * s[j], -3.0, 0.0
            else:
                change, low, high = lr * x[j] * s[i] - a * x[i] * s[j], (0.0 if j < n else -3.0), 3.0
            weight[e] = min(max(weight[e] + change, low), high)
        x = [0.90477447 * (x[i] + 0.1 * s[i]) for i in range(size)]
        a += (w_astro * (sum(s[:n]) - sum(s[n:])) + b_astro - a) / 100
        lr, a, w_astro, b_astro = lr * 0.99, a * 0.99, w_astro * 0.99, b_astro * 0.99
        recorded.append(s[:n])
    return recorded, weight


def test_no_input_leaves_everything_at_rest() -> None:
    liquid, _ = liquid_and_input()
    silence = SpikeTrains(torch.zeros(2 * 30 + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), 30, 40)
    for name in ("cpu", "reference"):
        activity, after = engine(name)(
            liquid,
            silence,
            LiquidState(liquid.weight),
            neuron=NeuronParameters(),
            rule=STDP(),
            astrocyte=Astrocyte(),
            weights="carried",
        )
        assert int(activity.counts.sum()) == 0
        torch.testing.assert_close(activity.modulation, torch.full((2, 30), 0.15, dtype=torch.float64))
        assert torch.equal(after.weight, liquid.weight.double())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "shared"}, "weights='shared'"),
        ({"rate_decay": 0.0}, "rate_decay=0.0"),
        ({"rule": None}, "it needs a rule"),
        ({"rule": STDP(w_max=1.0)}, "w_max=1.0"),
        ({"rule": APSTDP()}, "takes no astrocyte"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    liquid, inputs = liquid_and_input()
    arguments = {"neuron": NeuronParameters(), "rule": STDP(), "astrocyte": Astrocyte(), "weights": "private", **change}
    for name in ("cpu", "reference"):
        with pytest.raises(ValueError, match=message):
            engine(name)(liquid, inputs, LiquidState(liquid.weight), **arguments)


def test_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'tpu' is not known.*cpu.*gpu"):
        engine("tpu")
