"""Condensed layers against dense and CSR ones of the same weights: forward, and forward with backward for fixed positions.

One square Linear with constant fan-in. CSR has 32-bit indices, CSR64 the 64-bit ones that `to_sparse_csr` makes. All candidates
of a row are timed in turn, again and again, in one process; a figure is the least time of the repetitions, a ratio of 3 says
that the condensed layer takes a third of the baseline's time.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from torch import Tensor, nn

from plasticity_lightning.sparsity.compress import CSRLinear
from plasticity_lightning.sparsity.condensed import CondensedLinear
from plasticity_lightning.studies.latency import seconds_in_turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and few: shows that it runs, not how fast")
    parser.add_argument("--size", type=int, default=1024, help="inputs and outputs")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.25, help="for each candidate of a row")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Sparse CSR")
    if options.quick:
        options.size, options.batch, options.seconds = 64, [1, 16], 0.01
    for threads in options.threads:
        torch.set_num_threads(threads)
        for sparsity in options.sparsity:
            dense, condensed = layers(options.size, sparsity)
            fan_in = condensed.values.shape[1]
            print(f"\n{options.size} x {options.size}, {sparsity:.0%} sparse (fan-in {fan_in}), {threads} thread(s)")
            print("batch   condensed us   dense   CSR  CSR64 | with backward: condensed us   dense")
            for batch in options.batch:
                print(row(dense, condensed, batch, options.seconds), flush=True)


def layers(size: int, sparsity: float) -> tuple[nn.Linear, CondensedLinear]:
    """A masked dense layer with constant fan-in, and the same one condensed."""
    generator = torch.Generator().manual_seed(0)
    dense = nn.Linear(size, size)
    living = torch.rand(size, size, generator=generator).argsort(1)[:, : round(size * (1 - sparsity))]
    with torch.no_grad():
        dense.weight.mul_(torch.zeros(size, size).scatter_(1, living, 1.0))
    return dense, CondensedLinear.from_dense(dense)


def row(dense: nn.Linear, condensed: CondensedLinear, batch: int, seconds: float) -> str:
    x = torch.randn(batch, dense.in_features, generator=torch.Generator().manual_seed(1))
    wide, narrow = dense.weight.detach().to_sparse_csr(), CSRLinear(dense)
    with torch.no_grad():
        difference = (dense(x) - condensed(x)).abs().max().item()
        assert difference < 1e-4, difference
        forward = [lambda: condensed(x), lambda: dense(x), lambda: narrow(x)]
        forward.append(lambda: nn.functional.linear(x, wide, dense.bias))
        ours, *others = seconds_in_turn(forward, seconds)
    trained, base = seconds_in_turn([lambda: step(condensed, x), lambda: step(dense, x)], seconds)
    ratios = "".join(f"{other / ours:7.2f}" for other in others)
    return f"{batch:5d} {1e6 * ours:14.1f} {ratios} | {1e6 * trained:29.1f} {base / trained:7.2f}"


def step(layer: nn.Module, x: Tensor) -> None:
    """Gradients of input and parameters, as in the middle of a network."""
    x = x.detach().requires_grad_()
    torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])


if __name__ == "__main__":
    main()
