"""The fast engine for the CPU: a whole call compiled by numba, lanes spread over threads; the same bits as the reference.

State and sums are float64: float32 is 1.4 times as fast, but its rounding moves a quarter of the spikes within a second
(`docs/guides/spiking.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from plasticity_lightning.spiking.reservoir._buffers import CARRIED, Buffers
from plasticity_lightning.spiking.reservoir.contract import (
    ClosedLoop,
    ReservoirActivity,
    ReservoirState,
    Trace,
    check_simulation,
)
from plasticity_lightning.spiking.reservoir.drive import Drive
from plasticity_lightning.spiking.reservoir.topology import Reservoir
from plasticity_lightning.spiking.threads import available_threads

__all__ = ["simulate_cpu"]


def simulate_cpu(
    reservoir: Reservoir,
    drive: Drive,
    state: ReservoirState,
    *,
    trace: Trace | None = None,
    loop: ClosedLoop | None = None,
    record: bool = False,
    threads: int | None = None,
) -> tuple[ReservoirActivity, ReservoirState]:
    """Run all lanes; see `contract.Engine`. `threads=None` takes every core this process may use.

    Raises:
        ValueError: if arguments do not fit together, or threads is below 1.
    """
    from plasticity_lightning.spiking.reservoir._cpu_kernel import simulate_lane  # numba is slow to import

    trace = trace or Trace()
    check_simulation(reservoir, drive, state, trace, loop)
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
    n = reservoir.n_neurons
    buffers = Buffers.of(reservoir, drive, state, trace, loop, record)
    inputs, loops, outputs = buffers.inputs, buffers.loop, buffers.outputs
    keys = inputs["key"].view(np.uint64)
    target = inputs["target"].view(np.uint32)  # unsigned: no test for negative indices
    simulate: Callable[..., None] = simulate_lane

    def run(lane: int) -> None:
        breaks = slice(inputs["break_offsets"][lane], inputs["break_offsets"][lane + 1])
        simulate(
            inputs["n_steps"][lane],
            inputs["start"][lane],
            keys[lane],
            inputs["break_step"][breaks],
            inputs["break_level"][breaks],
            buffers.capacitance_form,
            inputs["cells"][lane],
            reservoir.dt,
            reservoir.n_excitatory,
            inputs["offsets"][lane],
            target,
            inputs["weight"],
            inputs["channels"][lane],
            inputs["noise"][lane],
            inputs["table"],
            buffers.filters,
            buffers.readout,
            buffers.every,
            *(buffers.carried[name][lane] for name in CARRIED),
            *(loops[name][lane] for name in ("encoder", "decoder", "inverse", "output", "wanted", "learn")),
            buffers.rule,
            np.empty((5, n)),
            np.empty(n, np.bool_),
            *(outputs[name][lane] for name in ("traces", "counts", "n_spikes", "output", "spikes")),
        )

    workers = min(threads or available_threads(), reservoir.n_lanes)
    if workers <= 1:
        for lane in range(reservoir.n_lanes):
            run(lane)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, range(reservoir.n_lanes)))
    return buffers.results(drive, state)
