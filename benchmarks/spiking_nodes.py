"""Forward and backward of spiking nodes over time: ours by back end against SpikingJelly's own LIF node at the same size.

On a CPU: the torch back end, SpikingJelly's node (2.0 picks a compiled C++ kernel there) and the same neuron as a loop of tensor operations. On a GPU
(`--device cuda`) also the Triton back end, and SpikingJelly's node runs its own Triton or CUDA kernel. All take an input current [T, B, N] in float32
with gradients, spikes about one in ten, in turn, and the smallest time of the rounds counts
(CPU time on a CPU).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from plasticity_lightning.spiking.izhikevich_nodes import CapacitanceIzhikevichNode, IzhikevichNode
from plasticity_lightning.spiking.neurons import RefractoryLIFNode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small size: shows that it runs, not how fast")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n_steps, n_batch, n = (4, 2, 16) if options.quick else (32, 32, 1024)
    rounds = 1 if options.quick else 7
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_steps, n_batch, n, generator=generator).to(options.device)

    lif = {"tau": 2.0, "v_threshold": 1.0, "step_mode": "m"}
    nodes: dict[str, tuple[nn.Module, float]] = {
        "SpikingJelly LIF": (neuron.LIFNode(decay_input=False, v_reset=0.0, detach_reset=True, **lif), 0.8),
        "refractory LIF, torch": (RefractoryLIFNode(**lif), 0.8),
        "Izhikevich 2003, torch": (IzhikevichNode(torch.full((n,), 0.02), bias=10.0, step_mode="m"), 20.0),
        "Izhikevich capacitance, torch": (
            CapacitanceIzhikevichNode(torch.full((n,), 250.0), bias=4000.0, dt=0.4, step_mode="m"),
            3000.0,
        ),
    }
    if options.device == "cuda":
        for name in [name for name in nodes if name.endswith("torch")]:
            node, scale = nodes[name]
            fused = type(node)(**lif) if isinstance(node, RefractoryLIFNode) else _twin(node)
            fused.backend = "triton"
            nodes[name.replace("torch", "triton")] = (fused, scale)
    runs: dict[str, Callable[[], Tensor]] = {"LIF as a loop of tensor operations": lambda: plain_loop(0.8 * x)}
    for name, (node, scale) in nodes.items():
        node.to(options.device)
        runs[name] = lambda node=node, scale=scale: pass_through(node, scale * x)

    best, rates = dict.fromkeys(runs, float("inf")), {}
    for _ in range(rounds + 1):  # the first one compiles
        for name, run in runs.items():
            start = now(options.device)
            rates[name] = run()
            best[name] = min(best[name], now(options.device) - start)
    baseline = best["SpikingJelly LIF"]
    for name, taken in best.items():
        print(
            f"{name}: {taken * 1e3:.2f} ms for {n_steps} steps of {n_batch} x {n} neurons, forward and backward; "
            f"{baseline / taken:.2f}x as fast as SpikingJelly's LIF; {float(rates[name]):.3f} spikes a step"
        )


def now(device: str) -> float:
    """Seconds: by the clock with the GPU idle, or of this process's CPU time, which other work on the machine disturbs less."""
    if device != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _twin(node: nn.Module) -> nn.Module:
    arguments = {name: value for name, value in node.named_buffers()}
    return type(node)(**arguments, dt=node.dt, step_mode="m")


def pass_through(node: nn.Module, x: Tensor) -> Tensor:
    """Rate of the spikes; the gradient for the input is computed, too."""
    functional.reset_net(node)
    x = x.requires_grad_()
    spikes = node(x)
    spikes.sum().backward()
    return spikes.detach().mean()


def plain_loop(x: Tensor) -> Tensor:
    x = x.requires_grad_()
    v, spikes, spike_function = torch.zeros_like(x[0]), [], neuron.LIFNode().surrogate_function
    for step in x:
        v = v + step - v / 2.0
        spike = spike_function(v - 1.0)
        v = torch.where(spike > 0, 0.0, v)
        spikes.append(spike)
    total = torch.stack(spikes)
    total.sum().backward()
    return total.detach().mean()


if __name__ == "__main__":
    main()
