"""Simulated seconds per wall second of the Izhikevich reservoir: CPU engine against reference, a SpikingJelly loop and Brian2.

All runs simulate the same network (1000 neurons, p = 0.1, form of 2003, noise on, one cue) on one thread, in turn, three times in one process;
the smallest time of each counts. Then lanes of the engine spread over threads, and the chaotic network of Nicola & Clopath (25 steps a ms).
The SpikingJelly loop is what one would write first: their node, a dense weight matrix, filters as tensors, for one network and for a batch of
eight with the same weights. Brian2 (needs the extra `brian2`) runs the network of `tests/spiking/reservoir/brian_network.py`, whose spikes equal ours
without noise, as Cython objects and as C++ standalone, whose own time of the main loop counts (its CPU time is the whole
program's); building is left out for all.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from spikingjelly.activation_based import neuron

from plasticity_lightning.spiking.reservoir import (
    Drive,
    Reservoir,
    ReservoirOptions,
    Trace,
    draw_reservoir,
    engine,
    initial_state,
    join_lanes,
    nicola_clopath_reservoir,
)
from plasticity_lightning.spiking.threads import available_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs: shows that it runs, not how fast")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="simulated by the fast ones; the slow ones take less"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    quick = options.quick
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    reservoirs = [
        draw_reservoir(ReservoirOptions(n_neurons=1000), generator=generator) for _ in range(1 if quick else 4)
    ]
    one = reservoirs[0]
    chaotic = nicola_clopath_reservoir(1000, generator=generator)
    seconds_long, rounds = (0.2, 1) if quick else (options.seconds, options.rounds)
    seconds_short = max(seconds_long / 50, 0.02)

    runs: dict[str, tuple[float, Callable[[], Seconds]]] = {
        "CPU engine": (seconds_long, of_engine("cpu", one, seconds_long)),
        "reference": (seconds_short, of_engine("reference", one, seconds_short)),
        "SpikingJelly loop": (10 * seconds_short, lambda: took(lambda: spikingjelly_loop(one, 10 * seconds_short, 1))),
        "SpikingJelly loop, 8 at once, together": (
            80 * seconds_short,
            lambda: took(lambda: spikingjelly_loop(one, 10 * seconds_short, 8)),
        ),
        "CPU engine, Nicola-Clopath": (seconds_long / 25, of_engine("cpu", chaotic, seconds_long / 25)),
    }
    if importlib.util.find_spec("brian2"):
        runs["Brian2, Cython"] = (10 * seconds_short, of_brian(one, 10 * seconds_short, standalone=False))
        runs["Brian2, C++ standalone"] = (seconds_long, of_brian(one, seconds_long, standalone=True))
    else:
        print("Brian2 is not installed: its rows are left out")
    lanes = join_lanes(reservoirs)
    for n in range(1, available_threads() + 1):
        seconds = seconds_long / 4 * lanes.n_lanes
        runs[f"CPU engine, {lanes.n_lanes} lanes, {n} threads, together"] = (
            seconds,
            of_engine("cpu", lanes, seconds_long / 4, threads=n),
        )

    best = dict.fromkeys(runs, Seconds(math.inf, math.inf))
    for _ in range(rounds):
        for name, (_, run) in runs.items():
            best[name] = Seconds(*map(min, best[name], run()))
    simulated, ours = runs["CPU engine"][0], best["CPU engine"]
    for name, (seconds, _) in runs.items():
        wall, cpu = seconds / best[name].wall, seconds / best[name].cpu
        print(
            f"{name}: {wall:.3g} simulated seconds a second, {cpu:.3g} a CPU second; the CPU engine on one thread is "
            f"{simulated / ours.wall / wall:.2f}x as fast, {simulated / ours.cpu / cpu:.2f}x in CPU time"
        )


class Seconds(NamedTuple):
    """The smallest time of the rounds, by the clock and of the processor: on a machine with other work only the latter compares."""

    wall: float
    cpu: float


def of_engine(name: str, reservoir: Reservoir, seconds: float, threads: int = 1) -> Callable[[], Seconds]:
    """A function that simulates every lane for that long and says how long it took."""
    trace = Trace() if reservoir.dt == 1.0 else Trace(2.0, 20.0, 4.0)
    every = trace.steps(reservoir.dt)
    n_steps = round(seconds * 1000 / reservoir.dt) // every * every
    cue = [(0, 10, 60)] if reservoir.n_channels else []
    drive = Drive.intervals(n_steps, reservoir.n_channels, [cue] * reservoir.n_lanes)
    v = -60.0 + 90.0 * torch.rand(reservoir.n_lanes, reservoir.n_neurons, dtype=torch.float64)
    state = initial_state(reservoir, range(reservoir.n_lanes), v=v)
    run = engine(name)
    if name == "cpu":  # compiles
        run(reservoir, Drive.intervals(every, reservoir.n_channels, [[]] * reservoir.n_lanes), state, trace=trace)

    def timed() -> Seconds:
        return took(lambda: run(reservoir, drive, state, trace=trace, threads=threads))

    return timed


def of_brian(reservoir: Reservoir, seconds: float, standalone: bool) -> Callable[[], Seconds]:
    import brian2 as b2

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.spiking.reservoir.brian_network import brian_network

    drive = Drive.intervals(round(seconds * 1000), reservoir.n_channels, [[(0, 10, 60)]])
    state = initial_state(reservoir, [0])

    def network() -> Any:
        return brian_network(reservoir, drive, v=state.v[0].numpy(), u=state.u[0].numpy(), noise=True)[0]

    if standalone:
        folder = tempfile.mkdtemp()
        b2.set_device("cpp_standalone", directory=folder, build_on_run=False)
        network().run(seconds * b2.second)
        device = b2.get_device()
        device.build(directory=folder, compile=True, run=False)
        b2.set_device("runtime")

        def run_program() -> Seconds:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            device.run(folder, with_output=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return Seconds(float(device._last_run_time), cpu)

        return run_program

    live = network()
    live.run(20 * b2.ms)  # compiles

    return lambda: took(lambda: live.run(seconds * b2.second))


def took(run: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


@torch.no_grad()
def spikingjelly_loop(reservoir: Reservoir, seconds: float, batch: int) -> None:
    weight = reservoir.dense(0).float()
    excitatory, inhibitory = weight.clamp(min=0), weight.clamp(max=0)
    d1, k1, d2, k2, d3, k3 = reservoir.synapses.coefficients(1.0)
    # SpikingJelly's node takes numbers: one neuron for all, in half steps
    cells = neuron.IzhikevichNode(
        2.0, -42.34, 0.04, 30.0, -65.0, -82.66, 0.0, 1 / (0.01 * 0.5), 0.2, 8.0, step_mode="s"
    )
    n = reservoir.n_neurons
    fast, slow, slow_inhibition, rising, decaying = (torch.zeros(batch, n) for _ in range(5))
    bias, cue = reservoir.neurons.bias[0].float(), reservoir.channels[0, 0].float()
    traces = []
    for t in range(round(seconds * 1000)):
        current = bias + fast + slow + slow_inhibition + 0.3 * torch.randn(batch, n) + 0.2 * 82.66
        if 10 <= t < 60:
            current = current + cue
        spikes = torch.maximum(cells(current), cells(current))
        fast = d1 * fast + k1 * (spikes @ excitatory.T)
        slow = d2 * slow + k2 * (spikes @ excitatory.T)
        slow_inhibition = d3 * slow_inhibition + k3 * (spikes @ inhibitory.T)
        rising, decaying = 0.8187 * rising + spikes, 0.9802 * decaying + spikes
        if t % 5 == 4:
            traces.append((decaying - rising) * (1000 / 45))


if __name__ == "__main__":
    main()
