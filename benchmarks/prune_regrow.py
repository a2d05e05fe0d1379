"""Cost of PruneRegrowScheduler on a CIFAR ResNet-20: masked steps against dense steps, and one update of the masks.

Short runs of the Trainer with and without the callback alternate in one process on one thread; the ratio is the median
over pairs of neighbouring runs. Steps of a busy machine differ by more than the callback costs, so its work by itself
is timed too: Lightning's profiler times its hooks, a stopwatch the masking around the optimiser step and an update.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from plasticity_lightning.callbacks import PruneRegrowScheduler
from plasticity_lightning.runtime.coverage import CoverageSummary
from plasticity_lightning.sparsity.methods import make_method
from plasticity_lightning.sparsity.plan import resolve
from plasticity_lightning.sparsity.selection import select_parameters
from plasticity_lightning.sparsity.sparse_parameters import SparseParameters


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.skip(x))


def resnet20(width: int) -> nn.Sequential:
    blocks: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(3):
        for index in range(3):
            outputs = width * 2**stage
            blocks.append(Block(inputs, outputs, 2 if stage and not index else 1))
            inputs = outputs
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class Fit(pl.LightningModule):
    """A classifier with SGD."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of the batch."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD as in the paper."""
        return sgd(self.net)


class Stopwatch(pl.Callback):
    """Seconds from the start of each batch to the start of the next; first in the list, so that all hooks are inside."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        """Note the time."""
        self.starts.append(time.perf_counter())


WARM_UP = 2  # steps of each run that are not timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps: shows that it runs, not how fast")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of runs")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n_steps, batch, rounds = (2, 16, 1) if options.quick else (5, options.batch, options.rounds)
    n = batch * (n_steps + WARM_UP + 1)
    data = TensorDataset(torch.randn(n, 3, 32, 32), torch.randint(0, 10, (n,)))
    net = resnet20(options.width)
    loader = DataLoader(data, batch_size=batch)
    profiler = SimpleProfiler()
    dense, ratios = [], []
    for _ in range(rounds):
        bare = timed_fit(net, loader, [], None)
        # no update falls into these few of four million steps
        scheduler = PruneRegrowScheduler("granet_s2s", every=1_000_000, total_steps=4_000_000, summary=False)
        masked = timed_fit(net, loader, [scheduler, CoverageSummary(quiet=True)], profiler)
        dense.append(bare)
        ratios.append(masked / bare)
    base = statistics.median(dense)
    masking, update, n_weights = parts(net, n_steps)
    hooks = sum(
        statistics.median(durations)
        for name, durations in profiler.recorded_durations.items()
        if "PruneRegrowScheduler" in name and ("train_batch" in name or "optimizer_step" in name)
    )
    print(f"ResNet-20, width {options.width}, {n_weights:,} masked weights, batch {batch}, 1 thread")
    print(f"dense step {base * 1e3:.1f} ms, median of {rounds} runs of {n_steps} steps")
    spread = statistics.quantiles(ratios, n=4) if rounds > 1 else [ratios[0]] * 3
    print(f"masked step between updates / dense step: {spread[1]:.3f} (quartiles {spread[0]:.3f} to {spread[2]:.3f})")
    print(f"work added between updates / dense step: {masking / base:.5f} masking, {hooks / base:.5f} hooks")
    print(f"update of the masks / dense step: {update / base:.3f}")


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def timed_fit(
    net: nn.Module, loader: DataLoader, callbacks: list[pl.Callback], profiler: SimpleProfiler | None
) -> float:
    """Median seconds of a step."""
    stopwatch = Stopwatch()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[stopwatch, *callbacks],
        logger=False,
        profiler=profiler,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Fit(net), loader)
    return statistics.median([end - start for start, end in pairwise(stopwatch.starts)][WARM_UP:])


def parts(net: nn.Module, n: int) -> tuple[float, float, int]:
    """Median seconds of the masking around one optimiser step and of one update, and the number of masked weights."""
    optimizer = sgd(net)
    weights = select_parameters(net)
    sparse = SparseParameters(optimizer, weights, resolve(make_method("granet_s2s", every=1_000_000), 4_000_000, None))
    sparse.initialise()
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()

    def masking() -> None:
        sparse.before_step()
        sparse.after_step()

    def update() -> None:
        sparse.step = 999_999
        masking()

    maskings, updates = [seconds(masking) for _ in range(n)], [seconds(update) for _ in range(n)]
    return statistics.median(maskings), statistics.median(updates), sum(p.numel() for p in weights.values())


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
