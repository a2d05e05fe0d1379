"""Samples per second of NALSM's two simulation phases: CPU engine against the dense reference and a SpikingJelly loop.

Prints absolute times and the ratio to each baseline, on one thread, then the engine's scaling with threads. Everything runs in turn, three times in
one process; the smallest time of each counts. The SpikingJelly loop is what one would write first: a LIF layer and a dense recurrent weight matrix,
a hundred samples at once. It has no plasticity and is compared with the engine on a static liquid.

With `--brian2 DRIVE ...` (extra `brian2`) instead: the same network written in Brian2 (`tests/spiking/liquid/brian_liquid.py`) as C++
standalone, plastic and static, one item of each drive shown for `--seconds`; Brian2's own time of the main loop counts, the whole call of ours.
Drives are `synthetic`, an item of MNIST or Fashion-MNIST (`--mnist_root`, `--fashion_root`), and `events`: an MNIST item before a simulated camera.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from spikingjelly.activation_based import functional, neuron

from plasticity_lightning.data import EmulatedNMNISTDataModule, FashionMNISTDataModule, MNISTDataModule
from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains, ink_scale, pulse_probability, rate_encode, sample_keys
from plasticity_lightning.spiking.liquid import LiquidActivity, LiquidState, NeuronParameters, engine
from plasticity_lightning.spiking.liquid.topology import Liquid, grid_liquid
from plasticity_lightning.spiking.rules import STDP
from plasticity_lightning.spiking.threads import available_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples: shows that it runs, not how fast")
    parser.add_argument("--shape", nargs=3, type=int, default=(10, 10, 10), help="grid of the liquid")
    parser.add_argument("--active", type=int, default=110, help="of 784 channels, those that share 20 pulses a step")
    parser.add_argument("--samples", type=int, default=200, help="of 250 ms; five times as many of 20 ms")
    parser.add_argument(
        "--engine-only", action="store_true", help="leave the baselines out, which a large liquid makes long"
    )
    parser.add_argument("--brian2", nargs="+", metavar="DRIVE", choices=["synthetic", "mnist", "fashion", "events"])
    parser.add_argument("--mnist_root", help="folder of MNIST's files")
    parser.add_argument("--fashion_root", help="folder of Fashion-MNIST's files")
    parser.add_argument("--seconds", type=float, default=5.0, help="simulated in each comparison with Brian2")
    options = parser.parse_args()
    if options.brian2:
        for drive in options.brian2:
            against_brian2(drive, options)
        return
    quick = options.quick
    if not quick:  # it would hold for whatever else runs in this process
        keep_memory()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    liquid = grid_liquid(tuple(options.shape), 784, generator=generator)
    n_init, n_feature = (20, 8) if quick else (5 * options.samples, options.samples)
    n_loop, rounds = (2, 1) if quick else (100, 3)

    # MNIST-like drive: some pixels carry 20 pulses a step together
    probability = torch.zeros(max(n_init, n_feature), 784)
    for row in probability:
        row[torch.randperm(784, generator=generator)[: options.active]] = 20.0 / options.active
    keys = sample_keys(0, torch.arange(len(probability)))
    start = LiquidState(liquid.weight.double())
    init = rate_encode(probability[:n_init], keys[:n_init], 20)
    one_init, one = rate_encode(probability[:1], keys[:1], 20), rate_encode(probability[:1], keys[:1], 250)
    cpu, reference = engine("cpu"), engine("reference")
    arguments = {"neuron": NeuronParameters(), "rule": STDP(), "astrocyte": Astrocyte()}
    _, state = cpu(liquid, init, start, weights="carried", threads=1, **arguments)  # compiles, too
    trains = rate_encode(probability[:n_feature], keys[:n_feature], 250)
    batch = rate_encode(probability[:n_loop], keys[:n_loop], 250)
    features = {"weights": "private", "rate_decay": 0.99, **arguments}
    static = LiquidState(liquid.weight.double() * (0.9 / 3.0))  # the weight of the paper's static liquid
    more = range(2, available_threads() + 1)

    no_learning = {"neuron": NeuronParameters(), "rule": None, "astrocyte": None, "weights": "private"}

    runs: dict[str, Callable[[], object]] = {
        "init": lambda: cpu(liquid, init, start, weights="carried", **arguments),
        "static": lambda: cpu(liquid, trains, static, threads=1, **no_learning),
    }
    if not options.engine_only:
        runs["init reference"] = lambda: reference(liquid, one_init, start, weights="carried", **arguments)
        runs["reference"] = lambda: reference(liquid, one, state, **features)
        runs["loop"] = lambda: spikingjelly_loop(liquid, batch)
    for n in (1, *more):
        runs[f"{n}"] = lambda n=n: cpu(liquid, trains, state, threads=n, **features)
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))

    engine_init, engine_feature, engine_static = (
        best["init"] / n_init,
        best["1"] / n_feature,
        best["static"] / n_feature,
    )
    report("initialisation, 20 ms a sample, CPU engine", engine_init)
    if "init reference" in best:
        report("initialisation, dense reference", best["init reference"], engine_init)
    report("features, 250 ms a sample, CPU engine", engine_feature)
    if "reference" in best:
        report("features, dense reference", best["reference"], engine_feature)
    report("features of a static liquid, CPU engine", engine_static)
    if "loop" in best:
        report(f"features of a static liquid, SpikingJelly loop, batch {n_loop}", best["loop"] / n_loop, engine_static)
    for n in more:
        print(
            f"features, CPU engine, {n} threads: {n_feature / best[f'{n}']:.1f} samples/s, {best['1'] / best[f'{n}']:.2f}x one thread"
        )


def drive_trains(drive: str, n_steps: int, options: argparse.Namespace) -> tuple[SpikeTrains, SpikeTrains]:
    """500 items of 20 ms to shape a liquid, and one item shown for n_steps."""
    if drive == "synthetic":
        generator = torch.Generator().manual_seed(1)
        probability = torch.zeros(501, 784)
        for row in probability:
            row[torch.randperm(784, generator=generator)[: options.active]] = 20.0 / options.active
    elif drive == "events":
        camera = EmulatedNMNISTDataModule(
            root=options.mnist_root, limit_train=501, limit_test=1, duration_ms=300, val_size=1, batch_size=500
        )
        camera.setup("fit")
        events = next(iter(camera.train_dataloader()))["events"]
        trains = SpikeTrains(events.offsets, events.channels, events.n_steps, events.n_channels)
        shape = trains.select(torch.arange(500)).window(torch.full((500,), 100), 20)
        item = trains.select(torch.tensor([0])).window(torch.zeros(1, dtype=torch.int64), 300)
        return shape, repeated(item, n_steps)
    else:
        module, root = (
            (MNISTDataModule, options.mnist_root)
            if drive == "mnist"
            else (FashionMNISTDataModule, options.fashion_root)
        )
        images = torch.as_tensor(module(root=root, dtype="uint8").arrays("train_file")[0])
        probability = pulse_probability(images[:501], ink_scale(images))
    keys = sample_keys(0, torch.arange(501))
    return rate_encode(probability[:500], keys[:500], 20), rate_encode(probability[500:], keys[500:], n_steps)


def against_brian2(drive: str, options: argparse.Namespace) -> None:
    import brian2 as b2

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.spiking.liquid.brian_liquid import brian_liquid

    torch.set_num_threads(1)
    n_steps = round(1000 * options.seconds)
    shape, item = drive_trains(drive, n_steps, options)
    liquid = grid_liquid(tuple(options.shape), item.n_channels, generator=torch.Generator().manual_seed(0))
    cpu, neuron = engine("cpu"), NeuronParameters()
    learning = {"neuron": neuron, "rule": STDP(), "astrocyte": Astrocyte()}
    start = LiquidState(liquid.weight.double(), torch.zeros(liquid.n_sources, dtype=torch.float64))
    _, state = cpu(liquid, shape, start, weights="carried", threads=1, **learning)
    cases = {
        "plastic": (state.weight, learning),
        "static": (liquid.weight.double() * (0.9 / 3.0), {"neuron": neuron, "rule": None, "astrocyte": None}),
    }
    for name, (weight, parts) in cases.items():
        folder = Path(tempfile.mkdtemp())
        b2.set_device("cpp_standalone", directory=str(folder), build_on_run=False)
        network, spikes = brian_liquid(liquid, item, weight.numpy(), **parts)
        network.run(n_steps * b2.ms)
        b2.get_device().build(directory=str(folder), compile=True, run=True)
        raster = torch.zeros(n_steps, liquid.n_neurons, dtype=torch.uint8)
        raster[(torch.as_tensor(spikes.t / b2.ms).round().long(), torch.as_tensor(spikes.i[:]).long())] = 1
        b2.device.reinit()
        b2.set_device("runtime")

        def ours(weight: torch.Tensor = weight, parts: dict = parts, record: bool = False) -> LiquidActivity:
            return cpu(liquid, item, LiquidState(weight), weights="private", threads=1, record=record, **parts)[0]

        activity = ours(record=True)
        best = [float("inf"), float("inf")]
        for _ in range(3):
            best[0] = min(best[0], seconds(ours))
            subprocess.run(["./main"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            best[1] = min(best[1], float((folder / "results/last_run_info.txt").read_text().split()[0]))
        rate = [float(number.float().mean()) for number in (activity.n_input, activity.n_liquid)]
        differ = int((activity.spikes[0] != raster).sum())
        print(
            f"{drive}, {name}, {len(item.channels.unique())} of {item.n_channels} channels active, "
            f"a step {rate[0]:.1f} input and {rate[1]:.1f} liquid spikes: engine {best[0] / options.seconds * 250:.2f} ms, Brian2 "
            f"{best[1] / options.seconds * 250:.2f} ms for 250 ms; {best[1] / best[0]:.2f}x as fast; {differ} of {int(raster.sum())} spikes differ",
            flush=True,
        )


def repeated(item: SpikeTrains, n_steps: int) -> SpikeTrains:
    """One sample over and over, cut at n_steps."""
    times = -(-n_steps // item.n_steps)
    counts, channels = item.offsets.diff().repeat(times)[:n_steps], item.channels.repeat(times)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SpikeTrains(offsets, channels[: int(offsets[-1])], n_steps, item.n_channels)


def keep_memory() -> None:
    """Let glibc keep freed memory: the baselines' large temporaries would else be mapped afresh at every step."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def report(what: str, taken: float, engine_takes: float | None = None) -> None:
    ratio = "" if engine_takes is None else f"; the CPU engine is {taken / engine_takes:.1f}x as fast"
    print(f"{what}: {1 / taken:.2f} samples/s, {taken * 1e3:.2f} ms a sample{ratio}")


@torch.no_grad()
def spikingjelly_loop(liquid: Liquid, trains: SpikeTrains) -> torch.Tensor:
    recurrent = torch.zeros(liquid.n_neurons, liquid.n_sources)
    recurrent[liquid.target.long(), liquid.source.long()] = liquid.weight * (0.9 / 3.0)
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
