"""The engine for CUDA: one thread block a lane, a whole call in one launch; the same bits as the CPU engine.

As many lanes run together as the device's free memory holds. Written for and tested in numba's CUDA simulator and compiled to PTX; **not measured on
a GPU**. Needs the extra `gpu` (numba's CUDA target).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from plasticity_lightning.errors import UserError
from plasticity_lightning.spiking.devices import free_memory, lanes_that_fit, on_current_device
from plasticity_lightning.spiking.reservoir._buffers import CARRIED, Buffers
from plasticity_lightning.spiking.reservoir.contract import (
    ClosedLoop,
    LoopState,
    ReservoirActivity,
    ReservoirState,
    Trace,
    check_simulation,
)
from plasticity_lightning.spiking.reservoir.drive import Drive
from plasticity_lightning.spiking.reservoir.topology import Reservoir

__all__ = ["bytes_per_lane", "simulate_gpu"]

_LOOP = ("encoder", "decoder", "inverse", "output", "wanted", "learn")
_OUTPUTS = ("traces", "counts", "n_spikes", "output", "spikes")
_N_WORK = 6  # rows of scratch a lane
BLOCK = 256  # threads of a block, at most


def simulate_gpu(
    reservoir: Reservoir,
    drive: Drive,
    state: ReservoirState,
    *,
    trace: Trace | None = None,
    loop: ClosedLoop | None = None,
    record: bool = False,
    threads: int | None = None,
) -> tuple[ReservoirActivity, ReservoirState]:
    """Run all lanes; see `contract.Engine`. `threads` is of the CPU and not used here.

    Raises:
        ValueError: if arguments do not fit together.
        UserError: if not even one lane fits into the device's memory.
    """
    trace = trace or Trace()
    check_simulation(reservoir, drive, state, trace, loop)
    on_current_device()
    needed, free = bytes_per_lane(reservoir, drive, loop, trace, record), free_memory()
    at_once = lanes_that_fit(needed, free)
    if at_once < 1:
        longest = int(drive.n_steps.max())
        raise UserError(
            f"one lane of this call needs {needed / 2**20:.0f} MiB of device memory, {free / 2**20:.0f} MiB are free; "
            f"what grows with the length of the call ({longest} steps) would fit in shorter calls, or with record=False"
        )
    parts = []
    for first in range(0, reservoir.n_lanes, at_once):
        last = min(first + at_once, reservoir.n_lanes)
        lanes = _lanes_of(reservoir, drive, state, loop, first, last)
        parts.append(_simulate(*lanes, trace=trace, record=record))
    return _join([part[0] for part in parts], [part[1] for part in parts])


def bytes_per_lane(reservoir: Reservoir, drive: Drive, loop: ClosedLoop | None, trace: Trace, record: bool) -> int:
    """Device memory that a lane takes, at its largest over the lanes."""
    n, n_steps = reservoir.n_neurons, int(drive.n_steps.max())
    edges = int((reservoir.offsets[:, -1] - reservoir.offsets[:, 0]).max())
    rows = len(reservoir.neurons.tensors()) + reservoir.n_channels + len(CARRIED) + _N_WORK + 2
    size = 8 * n * rows + 12 * edges + 4 * n * (n_steps // trace.steps(reservoir.dt)) + 4 * n_steps
    size += int(drive.offsets.diff().max()) * 8 * (1 + reservoir.n_channels)
    if record:
        size += n * n_steps
    if loop is not None:
        n_outputs = loop.encoder.shape[2]
        size += 8 * n_outputs * (2 * n + 2 * n_steps) + n_steps
        size += 8 * n * n if loop.target is not None else 0
    return size


def _simulate(
    reservoir: Reservoir,
    drive: Drive,
    state: ReservoirState,
    loop: ClosedLoop | None,
    *,
    trace: Trace,
    record: bool,
) -> tuple[ReservoirActivity, ReservoirState]:
    from numba import cuda

    from plasticity_lightning.spiking.reservoir._gpu_kernel import simulate_lanes

    n_lanes, n = reservoir.n_lanes, reservoir.n_neurons
    buffers = Buffers.of(reservoir, drive, state, trace, loop, record)
    on_device: dict[str, Any] = {}
    for group in (buffers.inputs, buffers.carried):
        on_device.update({name: cuda.to_device(value) for name, value in group.items()})
    on_device["key"] = cuda.to_device(buffers.inputs["key"].view(np.uint64))
    loops = {name: cuda.to_device(buffers.loop[name]) for name in _LOOP}
    outputs = {name: cuda.to_device(buffers.outputs[name]) for name in _OUTPUTS}
    kernel: Any = simulate_lanes
    kernel[n_lanes, min(BLOCK, -(-n // 32) * 32)](
        *(on_device[name] for name in ("n_steps", "start", "key", "break_offsets", "break_step", "break_level")),
        buffers.capacitance_form,
        on_device["cells"],
        reservoir.dt,
        reservoir.n_excitatory,
        *(on_device[name] for name in ("offsets", "target", "weight", "channels", "noise", "table")),
        buffers.filters,
        buffers.readout,
        buffers.every,
        *(on_device[name] for name in CARRIED),
        *(loops[name] for name in _LOOP),
        *buffers.rule,
        cuda.device_array((n_lanes, _N_WORK, n), np.float64),
        cuda.device_array((n_lanes, n), np.int8),
        cuda.device_array((n_lanes, (n + 31) // 32), np.int32),
        *(outputs[name] for name in _OUTPUTS),
    )
    for name in CARRIED:
        on_device[name].copy_to_host(buffers.carried[name])
    for name in ("decoder", "inverse", "output"):
        loops[name].copy_to_host(buffers.loop[name])
    for name in _OUTPUTS:
        outputs[name].copy_to_host(buffers.outputs[name])
    return buffers.results(drive, state)


def _lanes_of(
    reservoir: Reservoir, drive: Drive, state: ReservoirState, loop: ClosedLoop | None, first: int, last: int
) -> tuple[Reservoir, Drive, ReservoirState, ClosedLoop | None]:
    """Lanes first..last-1 of a call."""
    if (first, last) == (0, reservoir.n_lanes):
        return reservoir, drive, state, loop
    begin, end = int(drive.offsets[first]), int(drive.offsets[last])
    part = Drive(
        drive.n_steps[first:last],
        drive.offsets[first : last + 1] - begin,
        drive.step[begin:end],
        drive.level[begin:end],
    )
    readouts = state.loop
    if loop is not None and readouts is not None:
        longest = int(part.n_steps.max())
        loop = ClosedLoop(
            loop.encoder[first:last],
            None if loop.target is None else loop.target[first:last, :longest],
            None if loop.learn is None else loop.learn[first:last, :longest],
            loop.period,
            loop.forgetting,
            loop.stale_gain,
        )
        inverse = None if readouts.inverse is None else readouts.inverse[first:last]
        readouts = LoopState(readouts.decoder[first:last], inverse, readouts.output[first:last])
    tensors = {name: value[first:last] for name, value in vars(state).items() if name != "loop"}
    return reservoir.lanes(first, last), part, ReservoirState(**tensors, loop=readouts), loop


def _join(
    activities: list[ReservoirActivity], states: list[ReservoirState]
) -> tuple[ReservoirActivity, ReservoirState]:
    """The parts of a call, lanes in order; shorter parts are filled up with 0."""
    if len(activities) == 1:
        return activities[0], states[0]

    def joined(name: str) -> Any:
        parts = [getattr(activity, name) for activity in activities]
        if parts[0] is None:
            return None
        longest = max(part.shape[1] for part in parts)
        padded = [
            torch.cat([part, part.new_zeros(len(part), longest - part.shape[1], *part.shape[2:])], 1) for part in parts
        ]
        return torch.cat(padded)

    loops = [state.loop for state in states if state.loop is not None]
    loop = None
    if loops:
        inverses = [each.inverse for each in loops if each.inverse is not None]
        loop = LoopState(
            torch.cat([each.decoder for each in loops]),
            torch.cat(inverses) if inverses else None,
            torch.cat([each.output for each in loops]),
        )
    names = [name for name in vars(states[0]) if name != "loop"]
    tensors = {name: torch.cat([getattr(state, name) for state in states]) for name in names}
    activity = ReservoirActivity(**{name: joined(name) for name in vars(activities[0])})
    return activity, ReservoirState(**tensors, loop=loop)
