"""One step of the compiled kernel, from random states, against the functions of the rules: equal to the last bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plasticity_lightning.spiking.astrocyte import Astrocyte, astrocyte_step
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid import LiquidState, NeuronParameters, _cpu_kernel
from plasticity_lightning.spiking.liquid.cpu import simulate_cpu
from plasticity_lightning.spiking.liquid.topology import ConnectionProbability, Liquid, grid_liquid
from plasticity_lightning.spiking.rules import (
    APSTDP,
    STDP,
    ap_gates,
    calcium_step,
    gated_change,
    stdp_terms,
    trace_step,
    weight_bounds,
)

N_STEPS = 5
# without dead time a channel's spike is its pulse, one step late; a low threshold lets liquid neurons fire at once
NEURON = NeuronParameters(v_threshold=1.0, refractory=0)


def random_case(seed: int, rule: STDP) -> tuple[Liquid, Tensor, LiquidState]:
    """A small dense liquid, pulses [T + 1, 1, C], and weights within their bounds, traces and calcium at random."""
    generator = torch.Generator().manual_seed(seed)
    everywhere = ConnectionProbability(0.8, 0.8, 0.8, 0.8)
    liquid = grid_liquid((2, 2, 3), 6, probability=everywhere, input_density=0.6, generator=generator)
    pulses = torch.rand(N_STEPS + 1, 1, 6, generator=generator) < 0.5
    low, high = weight_bounds(12, liquid.n_excitatory, 6, rule.w_max)
    source = liquid.source.long()
    weight = low[source] + (high - low)[source] * torch.rand(len(source), generator=generator, dtype=torch.float64)
    trace = torch.rand(liquid.n_sources, generator=generator, dtype=torch.float64)
    calcium = 12 * torch.rand(12, generator=generator, dtype=torch.float64)
    return liquid, pulses, LiquidState(weight, trace, calcium)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    lr=st.floats(0, 2),
    gated=st.booleans(),
    modulated=st.booleans(),
    w_astro=st.floats(0, 0.5),
)
def test_weights_traces_calcium_and_astrocyte_take_the_step_of_the_shared_functions(
    seed: int, lr: float, gated: bool, modulated: bool, w_astro: float
) -> None:
    rule = APSTDP(lr=lr, w_max=2.0, theta=6.0, delta=4.0) if gated else STDP(lr=lr, w_max=2.0)
    astrocyte = Astrocyte(weight=w_astro) if modulated and not gated else None
    liquid, pulses, state = random_case(seed, rule)
    arguments = {"neuron": NEURON, "rule": rule, "astrocyte": astrocyte, "weights": "carried", "record": True}
    _, before = simulate_cpu(liquid, SpikeTrains.from_dense(pulses[:-1]), state, **arguments)
    activity, after = simulate_cpu(liquid, SpikeTrains.from_dense(pulses), state, **arguments)

    fired = torch.cat([activity.spikes[0, -1], pulses[-2, 0]]).double()
    depression = activity.modulation[0, -2] if astrocyte else torch.tensor(lr, dtype=torch.float64)
    source, target = liquid.source.long(), liquid.target.long()
    inhibitory = (source >= liquid.n_excitatory) & (source < liquid.n_neurons)
    at_target, at_source = stdp_terms(
        fired[source], fired[target], before.trace[source], before.trace[target], inhibitory, lr, depression
    )
    change = at_target + at_source
    if gated:
        calcium = calcium_step(before.calcium, fired[:12], rule)
        assert torch.equal(after.calcium, calcium)
        up, down = ap_gates(calcium, rule)
        change = gated_change(at_target, at_source, up[target], down[target])
    low, high = (bound[source] for bound in weight_bounds(12, liquid.n_excitatory, 6, rule.w_max))
    assert torch.equal(after.weight, torch.minimum(torch.maximum(before.weight + change, low), high))
    assert torch.equal(after.trace, trace_step(before.trace, fired, rule))
    if astrocyte:
        expected = astrocyte_step(depression, fired[:12].sum(), fired[12:].sum(), w_astro, astrocyte.bias, 100.0)
        assert activity.modulation[0, -1] == expected


def test_those_steps_have_spikes_on_either_side_and_weights_at_their_bounds() -> None:
    spikes, bound = 0, 0
    for seed in range(5):
        liquid, pulses, state = random_case(seed, STDP(w_max=2.0))
        arguments = {"neuron": NEURON, "rule": STDP(lr=1.0, w_max=2.0), "astrocyte": None, "weights": "carried"}
        activity, after = simulate_cpu(liquid, SpikeTrains.from_dense(pulses), state, record=True, **arguments)
        spikes += int(activity.spikes[0, -1].sum())
        bound += int((after.weight.abs() == 2.0).sum())
    assert spikes >= 5
    assert bound >= 5


def test_the_cache_of_compiled_code_knows_the_functions_that_it_inlines(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _cpu_kernel._revision()
    assert before == _cpu_kernel._revision()
    for function in (trace_step, astrocyte_step):
        assert function in _cpu_kernel._SHARED
    other = (*_cpu_kernel._SHARED[:-1], lambda trace, spikes, rule: trace * rule.trace_decay)
    monkeypatch.setattr(_cpu_kernel, "_SHARED", other)
    assert _cpu_kernel._revision() != before
