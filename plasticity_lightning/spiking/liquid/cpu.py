"""The fast engine for the CPU: the exact event-driven algorithm, compiled by numba, one thread per block of samples.

Same signature and, spike for spike, the same result as the dense reference: only the order of float64 additions differs. Samples are
independent and spread over threads unless weights, traces or calcium are carried from one to the next.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid._arguments import copied, floats
from plasticity_lightning.spiking.liquid.contract import (
    LiquidActivity,
    LiquidState,
    NeuronParameters,
    Weights,
    check_simulation,
)
from plasticity_lightning.spiking.liquid.topology import Liquid
from plasticity_lightning.spiking.rules import APSTDP, STDP, weight_bounds
from plasticity_lightning.spiking.threads import available_threads

__all__ = ["simulate_cpu"]


def simulate_cpu(
    liquid: Liquid,
    inputs: SpikeTrains,
    state: LiquidState,
    *,
    neuron: NeuronParameters,
    rule: STDP | None,
    astrocyte: Astrocyte | None,
    weights: Weights,
    rate_decay: float = 1.0,
    record: bool = False,
    threads: int | None = None,
) -> tuple[LiquidActivity, LiquidState]:
    """Simulate B samples; see `contract.Engine`. `threads=None` takes every core this process may use."""
    from plasticity_lightning.spiking.liquid import _cpu_kernel as kernel  # numba is slow to import

    check_simulation(liquid, inputs, state, rule, astrocyte, weights, rate_decay)
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
    b, t, n = inputs.n_samples, inputs.n_steps, liquid.n_neurons
    stdp, carried = rule or STDP(), weights == "carried"
    gate = stdp if isinstance(stdp, APSTDP) else APSTDP()
    senses = (astrocyte or Astrocyte()).sensed(n, liquid.n_inputs)
    low, high = weight_bounds(n, liquid.n_excitatory, liquid.n_inputs, stdp.w_max)
    in_edges = torch.bincount(liquid.target.long(), minlength=n)
    network = kernel.Network(
        liquid.source_offsets().numpy(),
        liquid.target.numpy().astype(np.uint16 if liquid.n_sources <= 2**16 else np.uint32),
        torch.cat([in_edges.new_zeros(1), in_edges.cumsum(0)]).numpy(),
        low.numpy(),
        high.numpy(),
        n,
        liquid.n_excitatory,
    )
    arguments = (
        network,
        kernel.Trains(inputs.offsets.numpy(), inputs.channels.numpy(), t),
        kernel.Neuron(**{**floats(neuron), "refractory": neuron.refractory}),
        kernel.Rule(**{**floats(gate), **floats(stdp)}),
        kernel.Feedback(
            *((astrocyte.weight, astrocyte.bias, astrocyte.tau) if astrocyte else (0.0, 0.0, 1.0)),
            senses[0].numpy(),
            senses[1].numpy(),
        ),
        kernel.How(rule is not None, isinstance(rule, APSTDP), astrocyte is not None, carried, float(rate_decay)),
    )
    after = kernel.State(*(copied(part) for part in (state.weight, state.trace, state.calcium)))
    activity = kernel.Activity(
        np.zeros((b, n), np.int32),
        np.zeros((b, t), np.int32),
        np.zeros((b, t), np.int32),
        np.zeros((b, t)),
        np.zeros((b, t, n) if record else (0, 0, 0), np.uint8),
    )

    def run(first: int, last: int) -> None:
        kernel.simulate_samples(first, last, *arguments, after, activity)

    sequential = carried or after.trace.size > 0 or after.calcium.size > 0
    workers = 1 if sequential else min(threads or available_threads(), b)
    if workers <= 1:
        run(0, b)
    else:
        block = max(1, min(16, b // (4 * workers)))  # small enough to even out samples of different cost
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda first: run(first, min(first + block, b)), range(0, b, block)))
    counts, n_liquid, n_input, modulation, spikes = map(torch.from_numpy, activity)
    weight, trace, calcium = map(torch.from_numpy, after)
    return (
        LiquidActivity(counts, n_liquid, n_input, modulation, spikes if record else None),
        LiquidState(weight, None if state.trace is None else trace, None if state.calcium is None else calcium),
    )
