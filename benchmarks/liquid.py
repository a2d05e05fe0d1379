"""Samples per second of NALSM's two simulation phases: CPU engine against the dense reference and a SpikingJelly loop.

Prints absolute times and the ratio to each baseline, measured in one run on one thread, then the engine's scaling with threads. The SpikingJelly loop
is what one would write first: a LIF layer, a dense recurrent weight matrix and no plasticity, so it does less than the engine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, neuron

from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains, rate_encode, sample_keys
from plasticity_lightning.spiking.engines import LiquidState, NeuronParameters, engine
from plasticity_lightning.spiking.engines.cpu import available_threads
from plasticity_lightning.spiking.rules import STDP
from plasticity_lightning.spiking.topology import Liquid, grid_liquid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples: shows that it runs, not how fast")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    liquid = grid_liquid((10, 10, 10), 784, generator=generator)
    n_init, n_feature, n_slow = (20, 8, 1) if quick else (1000, 200, 2)

    # MNIST-like drive: 110 of 784 pixels carry 20 pulses a step together
    probability = torch.zeros(max(n_init, n_feature), 784)
    for row in probability:
        row[torch.randperm(784, generator=generator)[:110]] = 0.182
    keys = sample_keys(0, torch.arange(len(probability)))
    state = LiquidState(liquid.weight.double())
    init = rate_encode(probability[:n_init], keys[:n_init], 20)
    cpu, reference = engine("cpu"), engine("reference")
    arguments = {"neuron": NeuronParameters(), "rule": STDP(), "astrocyte": Astrocyte()}
    cpu(liquid, rate_encode(probability[:1], keys[:1], 2), state, weights="carried", threads=1, **arguments)  # compile

    seconds, (_, state) = timed(lambda: cpu(liquid, init, state, weights="carried", **arguments))
    report("initialisation, 20 ms a sample, CPU engine", seconds, n_init)
    slow = rate_encode(probability[:n_slow], keys[:n_slow], 20)
    slow_seconds, _ = timed(lambda: reference(liquid, slow, state, weights="carried", **arguments))
    report("initialisation, dense reference", slow_seconds, n_slow, seconds / n_init)

    trains = rate_encode(probability[:n_feature], keys[:n_feature], 250)
    features = {"weights": "private", "rate_decay": 0.99, **arguments}
    seconds, _ = timed(lambda: cpu(liquid, trains, state, threads=1, **features))
    report("features, 250 ms a sample, CPU engine, 1 thread", seconds, n_feature)
    slow = rate_encode(probability[:n_slow], keys[:n_slow], 250)
    slow_seconds, _ = timed(lambda: reference(liquid, slow, state, **features))
    report("features, dense reference", slow_seconds, n_slow, seconds / n_feature)
    loop_seconds, _ = timed(lambda: spikingjelly_loop(liquid, slow))
    report("features without plasticity, SpikingJelly loop", loop_seconds, n_slow, seconds / n_feature)
    for threads in range(2, available_threads() + 1):
        more, _ = timed(lambda threads=threads: cpu(liquid, trains, state, threads=threads, **features))
        print(
            f"features, CPU engine, {threads} threads: {n_feature / more:.1f} samples/s, {seconds / more:.2f}x one thread"
        )


def timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def report(what: str, seconds: float, n: int, baseline_of: float | None = None) -> None:
    ratio = "" if baseline_of is None else f"; the CPU engine is {seconds / n / baseline_of:.1f}x as fast"
    print(f"{what}: {n / seconds:.2f} samples/s, {seconds / n * 1e3:.2f} ms a sample{ratio}")


@torch.no_grad()
def spikingjelly_loop(liquid: Liquid, trains: SpikeTrains) -> torch.Tensor:
    recurrent = torch.zeros(liquid.n_neurons, liquid.n_sources)
    recurrent[liquid.target.long(), liquid.source.long()] = liquid.weight
    relay = neuron.LIFNode(tau=64.0, decay_input=False, v_threshold=20.0, v_reset=0.0)
    cells = neuron.LIFNode(tau=64.0, decay_input=False, v_threshold=20.0, v_reset=0.0)
    pulses = trains.dense().float()
    spikes = torch.zeros(pulses.shape[1], liquid.n_neurons)
    counts = torch.zeros_like(spikes)
    for pulse in pulses:
        spikes = cells(torch.cat([spikes, relay(100.0 * pulse)], 1) @ recurrent.T)
        counts += spikes
    functional.reset_net(relay)
    functional.reset_net(cells)
    return counts


if __name__ == "__main__":
    main()
