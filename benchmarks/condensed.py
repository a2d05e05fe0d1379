"""Condensed layers against dense and CSR ones of the same weights: forward, and forward with backward for fixed positions.

One square Linear with constant fan-in. All candidates of a row are timed in turn, again and again, in one process; a figure is
the least time of the repetitions, a ratio of 3 says that the condensed layer takes a third of the baseline's time.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from plasticity_lightning.sparsity.condensed import CondensedLinear


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and few: shows that it runs, not how fast")
    parser.add_argument("--size", type=int, default=1024, help="inputs and outputs")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.25, help="for each candidate of a row")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Sparse CSR")
    if options.quick:
        options.size, options.batch, options.seconds = 64, [1, 16], 0.01
    for threads in options.threads if options.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        for sparsity in options.sparsity:
            dense, condensed = layers(options.size, sparsity, options.device)
            fan_in = condensed.values.shape[1]
            print(f"\n{options.size} x {options.size}, {sparsity:.0%} sparse (fan-in {fan_in}), {threads} thread(s)")
            print("batch   condensed us   dense   CSR | with backward: condensed us   dense")
            for batch in options.batch:
                print(row(dense, condensed, batch, options.seconds), flush=True)


def layers(size: int, sparsity: float, device: str) -> tuple[nn.Linear, CondensedLinear]:
    """A masked dense layer with constant fan-in, and the same one condensed."""
    generator = torch.Generator().manual_seed(0)
    dense = nn.Linear(size, size)
    living = torch.rand(size, size, generator=generator).argsort(1)[:, : round(size * (1 - sparsity))]
    with torch.no_grad():
        dense.weight.mul_(torch.zeros(size, size).scatter_(1, living, 1.0))
    return dense.to(device), CondensedLinear.from_dense(dense).to(device)


def row(dense: nn.Linear, condensed: CondensedLinear, batch: int, seconds: float) -> str:
    x = torch.randn(batch, dense.in_features, generator=torch.Generator().manual_seed(1)).to(dense.weight.device)
    csr = dense.weight.detach().to_sparse_csr()
    with torch.no_grad():
        difference = (dense(x) - condensed(x)).abs().max().item()
        assert difference < 1e-4, difference
        forward = [lambda: condensed(x), lambda: dense(x), lambda: nn.functional.linear(x, csr, dense.bias)]
        ours, *others = timed(forward, seconds)
    trained, base = timed([lambda: step(condensed, x), lambda: step(dense, x)], seconds)
    ratios = "".join(f"{other / ours:7.2f}" for other in others)
    return f"{batch:5d} {1e6 * ours:14.1f} {ratios} | {1e6 * trained:29.1f} {base / trained:7.2f}"


def step(layer: nn.Module, x: Tensor) -> None:
    """Gradients of input and parameters, as in the middle of a network."""
    x = x.detach().requires_grad_()
    torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])


def timed(candidates: list[Callable[[], object]], seconds: float) -> list[float]:
    """Least seconds of one call of each, measured in turn."""
    repeats = []
    for call in candidates:
        call()
        repeats.append(max(1, round(0.01 / max(once(call, 1), 1e-7))))  # about 10 ms a measurement
    rounds = max(3, round(seconds / 0.01))
    times = [[once(call, n) for call, n in zip(candidates, repeats, strict=True)] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def once(call: Callable[[], object], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / n


if __name__ == "__main__":
    main()
