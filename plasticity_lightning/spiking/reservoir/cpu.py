"""The fast engine for the CPU: a whole call compiled by numba, lanes spread over threads; the same bits as the reference.

State and sums are float64. A float32 variant was measured and dropped: see `docs/benchmarks.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from plasticity_lightning.spiking.izhikevich import CapacitanceIzhikevich
from plasticity_lightning.spiking.reservoir.contract import (
    ClosedLoop,
    Drive,
    LoopState,
    ReservoirActivity,
    ReservoirState,
    Trace,
    check_simulation,
)
from plasticity_lightning.spiking.reservoir.noise import normal_table
from plasticity_lightning.spiking.reservoir.topology import Reservoir
from plasticity_lightning.spiking.threads import available_threads

__all__ = ["simulate_cpu"]

_CARRIED = ("v", "u", "first", "second", "inhibitory", "rising", "decaying")


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
    n_lanes, n, n_steps = reservoir.n_lanes, reservoir.n_neurons, int(drive.n_steps.max())
    every = trace.steps(reservoir.dt)
    n_outputs = 0 if loop is None else loop.encoder.shape[2]
    traces = np.zeros((n_lanes, n_steps // every, n), np.float32)
    counts, n_spikes = np.zeros((n_lanes, n), np.int32), np.zeros((n_lanes, n_steps), np.int32)
    spikes = np.zeros((n_lanes, n_steps if record else 0, n), np.uint8)
    output = np.zeros((n_lanes, n_steps, n_outputs))
    carried = {name: getattr(state, name).contiguous().numpy().copy() for name in _CARRIED}
    cells = torch.stack(list(reservoir.neurons.tensors().values()), 1).numpy()  # [L, P, N]
    encoder, decoder, inverse, loop_output, wanted, learn = _loop_arrays(loop, state.loop, n_lanes, n, n_steps)
    rule = (loop.period, loop.forgetting, loop.stale_gain) if loop else (1, 1.0, False)
    arrays = {
        "offsets": reservoir.offsets.contiguous().numpy(),
        "target": reservoir.target.contiguous().numpy().view(np.uint32),  # unsigned: no test for negative indices
        "weight": reservoir.weight.contiguous().numpy(),
        "channels": reservoir.channels.contiguous().numpy(),
        "break": drive.offsets.numpy(),
        "break_step": drive.step.contiguous().numpy(),
        "break_level": drive.level.contiguous().numpy(),
    }
    table = normal_table().numpy()

    simulate: Callable[..., None] = simulate_lane

    def run(lane: int) -> None:
        breaks = slice(arrays["break"][lane], arrays["break"][lane + 1])
        simulate(
            int(drive.n_steps[lane]),
            int(state.step[lane]),
            np.uint64(int(state.key[lane]) & 0xFFFFFFFFFFFFFFFF),
            arrays["break_step"][breaks],
            arrays["break_level"][breaks],
            isinstance(reservoir.neurons, CapacitanceIzhikevich),
            cells[lane],
            reservoir.dt,
            reservoir.n_excitatory,
            arrays["offsets"][lane],
            arrays["target"],
            arrays["weight"],
            arrays["channels"][lane],
            float(reservoir.noise[lane]),
            table,
            reservoir.synapses.coefficients(reservoir.dt),
            trace.coefficients(reservoir.dt),
            every,
            *(carried[name][lane] for name in _CARRIED),
            encoder[lane],
            decoder[lane],
            inverse[lane],
            loop_output[lane],
            wanted[lane],
            learn[lane],
            rule,
            np.empty((5, n)),
            np.empty(n, np.bool_),
            traces[lane],
            counts[lane],
            n_spikes[lane],
            output[lane],
            spikes[lane],
        )

    workers = min(threads or available_threads(), n_lanes)
    if workers <= 1:
        for lane in range(n_lanes):
            run(lane)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, range(n_lanes)))
    activity = ReservoirActivity(
        trace=torch.from_numpy(traces),
        counts=torch.from_numpy(counts),
        n_spikes=torch.from_numpy(n_spikes),
        output=None if loop is None else torch.from_numpy(output),
        spikes=torch.from_numpy(spikes) if record else None,
    )
    after = None
    if state.loop is not None:
        learnt = None if state.loop.inverse is None else torch.from_numpy(inverse)
        after = LoopState(torch.from_numpy(decoder), learnt, torch.from_numpy(loop_output))
    return activity, ReservoirState(
        **{name: torch.from_numpy(value) for name, value in carried.items()},
        key=state.key.clone(),
        step=state.step + drive.n_steps,
        loop=after,
    )


def _loop_arrays(
    loop: ClosedLoop | None, state: LoopState | None, n_lanes: int, n: int, n_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Encoder, decoder, inverse, output, target and learn mask of all lanes as arrays; empty ones where there is no loop."""
    if loop is None or state is None:
        return (
            np.zeros((n_lanes, n, 0)),
            np.zeros((n_lanes, 0, n)),
            np.zeros((n_lanes, 0, 0)),
            np.zeros((n_lanes, 0)),
            np.zeros((n_lanes, 0, 0)),
            np.zeros((n_lanes, 0), np.bool_),
        )
    inverse = np.zeros((n_lanes, 0, 0)) if state.inverse is None else state.inverse.contiguous().numpy().copy()
    if loop.target is None:
        wanted, learn = np.zeros((n_lanes, 0, 0)), np.zeros((n_lanes, 0), np.bool_)
    else:
        wanted = loop.target.contiguous().numpy()
        learn = np.ones((n_lanes, n_steps), np.bool_) if loop.learn is None else loop.learn.contiguous().numpy()
    decoder, output = state.decoder.contiguous().numpy().copy(), state.output.contiguous().numpy().copy()
    return loop.encoder.contiguous().numpy(), decoder, inverse, output, wanted, learn
