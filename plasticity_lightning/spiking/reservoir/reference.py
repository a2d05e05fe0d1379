"""The reference engine: one lane, one step at a time, dense weights, in the order of the equations. Slow and obviously right.

It calls `Izhikevich.step` and `noise.standard_normal`; charges of one step are added source by source, ascending, and long sums from the first
neuron to the last, because the other back ends do so and float64 addition is not associative.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from plasticity_lightning.spiking.reservoir.contract import (
    ClosedLoop,
    LoopState,
    ReservoirActivity,
    ReservoirState,
    Trace,
    check_simulation,
)
from plasticity_lightning.spiking.reservoir.drive import Drive
from plasticity_lightning.spiking.reservoir.noise import standard_normal
from plasticity_lightning.spiking.reservoir.topology import Reservoir

__all__ = ["NEGLIGIBLE", "decay", "rls_step", "simulate_reference"]

NEGLIGIBLE = 1e-200  # what decays below it is set to 0: subnormal arithmetic is a hundred times slower


@torch.no_grad()
def simulate_reference(
    reservoir: Reservoir,
    drive: Drive,
    state: ReservoirState,
    *,
    trace: Trace | None = None,
    loop: ClosedLoop | None = None,
    record: bool = False,
    threads: int | None = None,
) -> tuple[ReservoirActivity, ReservoirState]:
    """Run all lanes; see `contract.Engine`. `threads` is left to torch here."""
    trace = trace or Trace()
    check_simulation(reservoir, drive, state, trace, loop)
    n_lanes, n, n_steps = reservoir.n_lanes, reservoir.n_neurons, int(drive.n_steps.max())
    every = trace.steps(reservoir.dt)
    spikes = torch.zeros(n_lanes, n_steps, n, dtype=torch.uint8)
    traces = torch.zeros(n_lanes, n_steps // every, n)
    output = None if loop is None else torch.zeros(n_lanes, n_steps, loop.encoder.shape[2], dtype=torch.float64)
    parts = []
    for lane in range(n_lanes):
        part = _lane_state(state, lane)
        network, weight = reservoir.lanes(lane, lane + 1), reservoir.dense(lane)
        levels = torch.zeros(reservoir.n_channels, dtype=torch.float64)
        breaks = {
            int(drive.step[k]): drive.level[k] for k in range(int(drive.offsets[lane]), int(drive.offsets[lane + 1]))
        }
        for t in range(int(drive.n_steps[lane])):
            levels = breaks.get(t, levels)
            learns = loop is not None and _learns(loop, lane, t, int(part.step))
            target = loop.target[lane, t] if loop is not None and loop.target is not None and learns else None
            encoder = None if loop is None else loop.encoder[lane]
            fired, part = _step(network, weight, levels, part, trace, encoder, loop, target)
            spikes[lane, t] = fired
            if output is not None and part.loop is not None:
                output[lane, t] = part.loop.output[0]
            if (t + 1) % every == 0:
                traces[lane, (t + 1) // every - 1] = _readout(part, trace, reservoir.dt).float()
        parts.append(part)
    activity = ReservoirActivity(
        trace=traces,
        counts=spikes.sum(1, dtype=torch.int32),
        n_spikes=spikes.sum(2, dtype=torch.int32),
        output=output,
        spikes=spikes if record else None,
    )
    return activity, _join_states(parts)


def decay(x: Tensor, factor: float) -> Tensor:
    """Product of x and factor, or 0 where that is negligible."""
    x = x * factor
    return torch.where(x.abs() > NEGLIGIBLE, x, 0.0)


def rls_step(
    decoder: Tensor, inverse: Tensor, x: Tensor, error: Tensor, forgetting: float, stale_gain: bool
) -> tuple[Tensor, Tensor]:
    """One update of recursive least squares; see `contract.ClosedLoop`.

    Args:
        decoder: float64 [K, N].
        inverse: float64 [N, N], symmetric.
        x: float64 [N].
        error: float64 [K], output minus target.
        forgetting: lambda.
        stale_gain: leave the denominator out of the decoder's gain.

    Returns:
        (decoder, inverse) after the update.
    """
    gain = torch.zeros_like(x)
    for j in range(len(x)):  # P is symmetric: row j is column j
        gain = gain + inverse[j] * x[j]
    scale = 1.0 / (forgetting + _dot(x, gain))
    scaled = gain * scale
    decoder = decoder - error[:, None] * (gain if stale_gain else scaled)[None, :]
    # g_i g_j commutes, scaled_i g_j does not: scaling the product keeps P symmetric to the last bit
    inverse = inverse - (gain[:, None] * gain[None, :]) * scale
    return decoder, inverse if forgetting == 1.0 else inverse / forgetting


def _step(
    network: Reservoir,
    weight: Tensor,
    levels: Tensor,
    state: ReservoirState,
    trace: Trace,
    encoder: Tensor | None,
    loop: ClosedLoop | None,
    target: Tensor | None,
) -> tuple[Tensor, ReservoirState]:
    n, n_excitatory, cells = network.n_neurons, network.n_excitatory, network.neurons
    current = cells.bias[0]
    for s in range(network.n_channels):
        if levels[s] != 0:
            current = current + levels[s] * network.channels[0, s]
    current = current + (state.first[0] + state.second[0] + state.inhibitory[0])
    if network.noise[0] > 0:
        current = current + network.noise[0] * standard_normal(state.key, state.step, n)[0]
    if encoder is not None and state.loop is not None:
        for k in range(encoder.shape[1]):
            current = current + encoder[:, k] * state.loop.output[0, k]
    spikes, v, u = cells.step(state.v, state.u, current[None])

    sources = spikes[0].nonzero()[:, 0].tolist()
    excitatory, inhibitory = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for j in sources:
        if j < n_excitatory:
            excitatory = excitatory + weight[:, j]
        else:
            inhibitory = inhibitory + weight[:, j]
    d1, k1, d2, k2, d3, k3 = network.synapses.coefficients(network.dt)
    d_rise, d_decay, _ = trace.coefficients(network.dt)
    state = replace(
        state,
        v=v,
        u=u,
        first=decay(state.first, d1) + k1 * excitatory,
        second=decay(state.second, d2) + k2 * excitatory,
        inhibitory=decay(state.inhibitory, d3) + k3 * inhibitory,
        rising=decay(state.rising, d_rise) + spikes,
        decaying=decay(state.decaying, d_decay) + spikes,
        step=state.step + 1,
    )
    if loop is not None and state.loop is not None:
        x = _readout(state, trace, network.dt)
        decoder, inverse = state.loop.decoder[0], state.loop.inverse
        output = torch.stack([_dot(row, x) for row in decoder]) if len(decoder) else torch.zeros(0, dtype=torch.float64)
        if target is not None and inverse is not None:
            decoder, inverse_matrix = rls_step(
                decoder, inverse[0], x, output - target, loop.forgetting, loop.stale_gain
            )
            inverse = inverse_matrix[None]
        state = replace(state, loop=LoopState(decoder[None], inverse, output[None]))
    return spikes[0].to(torch.uint8), state


def _learns(loop: ClosedLoop, lane: int, t: int, step: int) -> bool:
    if loop.target is None or (step + 1) % loop.period:
        return False
    return loop.learn is None or bool(loop.learn[lane, t])


def _readout(state: ReservoirState, trace: Trace, dt: float) -> Tensor:
    """Trace in Hz, float64 [N], of a state of one lane."""
    return (state.decaying[0] - state.rising[0]) * trace.coefficients(dt)[2]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products from the first to the last; torch's own sum adds in another order."""
    return torch.from_numpy(np.add.accumulate((a * b).numpy()))[-1]


def _lane_state(state: ReservoirState, lane: int) -> ReservoirState:
    loop = state.loop
    if loop is not None:
        inverse = None if loop.inverse is None else loop.inverse[lane : lane + 1]
        loop = LoopState(loop.decoder[lane : lane + 1], inverse, loop.output[lane : lane + 1])
    tensors = {name: value[lane : lane + 1] for name, value in vars(state).items() if name != "loop"}
    return ReservoirState(**tensors, loop=loop)


def _join_states(parts: list[ReservoirState]) -> ReservoirState:
    loop = parts[0].loop
    if loop is not None:
        loops = [part.loop for part in parts if part.loop is not None]
        inverses = [x.inverse for x in loops if x.inverse is not None]
        loop = LoopState(
            torch.cat([x.decoder for x in loops]),
            torch.cat(inverses) if inverses else None,
            torch.cat([x.output for x in loops]),
        )
    names = [name for name in vars(parts[0]) if name != "loop"]
    return ReservoirState(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names}, loop=loop)
