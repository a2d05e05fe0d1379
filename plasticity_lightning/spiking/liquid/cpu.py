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
from plasticity_lightning.spiking.liquid.contract import (
    LiquidActivity,
    LiquidState,
    NeuronParameters,
    Weights,
    check_simulation,
)
from plasticity_lightning.spiking.liquid.topology import Liquid
from plasticity_lightning.spiking.rules import APSTDP, STDP
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
    from plasticity_lightning.spiking.liquid._cpu_kernel import simulate_samples  # numba is slow to import

    check_simulation(liquid, inputs, state, rule, astrocyte, weights, rate_decay)
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
    b, t, n = inputs.n_samples, inputs.n_steps, liquid.n_neurons
    counts, n_liquid, n_input = np.zeros((b, n), np.int32), np.zeros((b, t), np.int32), np.zeros((b, t), np.int32)
    modulation = np.zeros((b, t))
    spikes = np.zeros((b, t, n) if record else (0, 0, 0), np.uint8)
    weight = state.weight.double().numpy().copy()
    trace = np.empty(0) if state.trace is None else state.trace.double().numpy().copy()
    calcium = np.empty(0) if state.calcium is None else state.calcium.double().numpy().copy()
    senses = (astrocyte or Astrocyte()).sensed(n, liquid.n_inputs)
    gate = rule if isinstance(rule, APSTDP) else APSTDP()
    stdp = rule or STDP()
    row_offset = torch.cat(
        [torch.zeros(1, dtype=torch.int64), torch.bincount(liquid.target.long(), minlength=n).cumsum(0)]
    )
    target = liquid.target.numpy().astype(np.uint32)
    carried = weights == "carried"

    def run(first: int, last: int) -> None:
        simulate_samples(
            first,
            last,
            t,
            inputs.offsets.numpy(),
            inputs.channels.numpy(),
            liquid.source_offsets().numpy(),
            target,
            row_offset.numpy(),
            weight,
            carried,
            n,
            liquid.n_excitatory,
            (neuron.tau_mem, neuron.tau_syn, neuron.v_threshold, neuron.v_reset, neuron.refractory, neuron.pulse),
            rule is not None,
            (stdp.lr, stdp.trace_increment, stdp.trace_decay, stdp.w_max, gate.theta, gate.delta, gate.tau_calcium),
            isinstance(rule, APSTDP),
            astrocyte is not None,
            (astrocyte.weight, astrocyte.bias, astrocyte.tau) if astrocyte else (0.0, 0.0, 1.0),
            senses[0].numpy(),
            senses[1].numpy(),
            rate_decay,
            trace,
            calcium,
            counts,
            n_liquid,
            n_input,
            modulation,
            spikes,
        )

    sequential = carried or trace.size > 0 or calcium.size > 0
    workers = 1 if sequential else min(threads or available_threads(), b)
    if workers <= 1:
        run(0, b)
    else:
        block = max(1, min(16, b // (4 * workers)))  # small enough to even out samples of different cost
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda first: run(first, min(first + block, b)), range(0, b, block)))
    activity = LiquidActivity(
        torch.from_numpy(counts),
        torch.from_numpy(n_liquid),
        torch.from_numpy(n_input),
        torch.from_numpy(modulation),
        torch.from_numpy(spikes) if record else None,
    )
    after = LiquidState(
        torch.from_numpy(weight),
        None if state.trace is None else torch.from_numpy(trace),
        None if state.calcium is None else torch.from_numpy(calcium),
    )
    return activity, after
