"""The engine for CUDA: one thread block a sample with weights of its own in device memory; rasters equal the CPU engine's bit for bit.

As many samples run together as the device's free memory holds. Where weights, traces or calcium are carried from one sample to the next, one
block runs them in turn, which a CPU core does faster. Tested in numba's CUDA simulator and compiled to PTX; **not measured on a GPU**.
Needs the extra `gpu`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from plasticity_lightning.errors import UserError
from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.devices import free_memory, lanes_that_fit, on_current_device
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

__all__ = ["bytes_per_sample", "simulate_gpu"]

BLOCK = 256  # threads of a block, at most


def simulate_gpu(
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
    """Simulate B samples; see `contract.Engine`. `threads` is of the CPU and not used here.

    Raises:
        ValueError: if arguments do not fit together.
        UserError: if not even one sample fits into the device's memory.
    """
    check_simulation(liquid, inputs, state, rule, astrocyte, weights, rate_decay)
    on_current_device()
    needed, free = bytes_per_sample(liquid, inputs, record), free_memory()
    at_once = lanes_that_fit(needed, free)
    if at_once < 1:
        raise UserError(
            f"one sample of this liquid ({liquid.n_edges} edges) needs {needed / 2**20:.0f} MiB of device memory, "
            f"{free / 2**20:.0f} MiB are free; at most about {int(free * liquid.n_edges / needed)} edges would fit"
        )
    parts = []
    for first in range(0, inputs.n_samples, at_once):
        chosen = torch.arange(first, min(first + at_once, inputs.n_samples))
        part = inputs if at_once >= inputs.n_samples else inputs.select(chosen)
        activity, state = _simulate(
            liquid, part, state, neuron, rule, astrocyte, weights == "carried", rate_decay, record
        )
        parts.append(activity)
    joined = [
        None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts])
        for name in ("counts", "n_liquid", "n_input", "modulation", "spikes")
    ]
    return LiquidActivity(*joined), state  # type: ignore[arg-type]


def bytes_per_sample(liquid: Liquid, inputs: SpikeTrains, record: bool) -> int:
    """Device memory that a sample takes: 16 bytes an edge, its neurons' state, its events and its activity."""
    n, n_steps = liquid.n_neurons, inputs.n_steps
    events = int((inputs.offsets[n_steps::n_steps] - inputs.offsets[:-1:n_steps]).max()) if inputs.n_samples else 0
    state = 8 * (8 * n + 8 * liquid.n_sources + 5 * liquid.n_inputs) + 4 * (n // 32 + liquid.n_inputs // 32 + 2)
    return 16 * liquid.n_edges + state + 4 * events + 24 * n_steps + 4 * n + (n * n_steps if record else 0)


def _simulate(
    liquid: Liquid,
    inputs: SpikeTrains,
    state: LiquidState,
    neuron: NeuronParameters,
    rule: STDP | None,
    astrocyte: Astrocyte | None,
    carried: bool,
    rate_decay: float,
    record: bool,
) -> tuple[LiquidActivity, LiquidState]:
    from numba import cuda

    from plasticity_lightning.spiking.liquid import _cpu_kernel as compiled
    from plasticity_lightning.spiking.liquid._gpu_kernel import Feedback, Size, simulate_samples

    b, t, n, c, edges = inputs.n_samples, inputs.n_steps, liquid.n_neurons, liquid.n_inputs, liquid.n_edges
    stdp = rule or STDP()
    gate = stdp if isinstance(stdp, APSTDP) else APSTDP()
    senses = (astrocyte or Astrocyte()).sensed(n, c)
    low, high = weight_bounds(n, liquid.n_excitatory, c, stdp.w_max)
    target = liquid.target.numpy()
    in_edges = np.concatenate([[0], np.bincount(target, minlength=n).cumsum()])
    neuron_fields = compiled.Neuron(**{**floats(neuron), "refractory": neuron.refractory})
    factor = _current_factors(t, neuron.tau_syn)
    weight = state.weight.double().numpy().copy()
    drive = np.zeros(n)
    np.add.at(drive, target, weight * factor[t + 1])  # edge by edge, as the CPU engine adds
    trace, calcium = copied(state.trace), copied(state.calcium)
    sequential = carried or trace.size > 0 or calcium.size > 0
    blocks = 1 if sequential else b
    results = (
        np.zeros((b, n), np.int32),
        np.zeros((b, t), np.int32),
        np.zeros((b, t), np.int32),
        np.zeros((b, t)),
        np.zeros((b, t, n) if record else (0, 0, 0), np.uint8),
    )
    tables = (
        factor,
        liquid.source_offsets().numpy(),
        target,
        in_edges,
        low.numpy(),
        high.numpy(),
        senses[0].numpy(),
        senses[1].numpy(),
        inputs.offsets.numpy(),
        inputs.channels.numpy(),
        drive,
    )
    on_device = [cuda.to_device(x) for x in (weight, trace, calcium)]
    out = [cuda.to_device(x) for x in results]
    kernel: Any = simulate_samples
    kernel[blocks, min(BLOCK, -(-n // 32) * 32)](
        Size(b, t, n, liquid.n_excitatory),
        neuron_fields,
        compiled.Rule(**{**floats(gate), **floats(stdp)}),
        Feedback(*((astrocyte.weight, astrocyte.bias, astrocyte.tau) if astrocyte else (0.0, 0.0, 1.0))),
        compiled.How(rule is not None, isinstance(rule, APSTDP), astrocyte is not None, carried, float(rate_decay)),
        math.exp(-1.0 / neuron.tau_syn),
        *(cuda.to_device(x) for x in tables),
        *on_device,
        cuda.device_array((blocks, 6, n), np.float64),
        cuda.device_array((blocks, 4, n + c), np.float64),
        cuda.device_array((blocks, c), np.float64),
        cuda.device_array((blocks, 2, n), np.int64),
        cuda.device_array((blocks, 4, n + c), np.int64),
        cuda.device_array((blocks, 4, max(c, 3)), np.int64),
        cuda.device_array((blocks, (n + 31) // 32 + (c + 31) // 32), np.int32),
        cuda.device_array((blocks, edges), np.int32),
        cuda.device_array((blocks, edges), np.float64),
        cuda.device_array((blocks, edges), np.int32),
        *out,
    )
    counts, n_liquid, n_input, modulation, spikes = (torch.from_numpy(x.copy_to_host()) for x in out)
    activity = LiquidActivity(counts, n_liquid, n_input, modulation, spikes if record else None)
    after = [torch.from_numpy(x.copy_to_host()) for x in on_device]
    return activity, LiquidState(
        after[0], None if state.trace is None else after[1], None if state.calcium is None else after[2]
    )


def _current_factors(n_steps: int, tau_syn: float) -> np.ndarray:
    """Current factor after 0..n_steps steps of decay, from its maximum and from the value at the start of a sample: float64 [2 (T + 1)].

    The products are those of the CPU engine, one a step.
    """
    from plasticity_lightning.spiking.liquid._cpu_kernel import NEGLIGIBLE, START_CLOCK

    factor = np.empty((2, n_steps + 1))
    factor[:, 0] = 1.0 / tau_syn, math.exp(-START_CLOCK / tau_syn) / tau_syn
    decay = math.exp(-1.0 / tau_syn)
    for k in range(n_steps):
        factor[:, k + 1] = np.where(factor[:, k] > NEGLIGIBLE, factor[:, k] * decay, 0.0)
    return factor.reshape(-1)
