"""Cost of PlasticityMonitor in a training step: ResNet-18, and the critic of visual RL at its real shapes.

Every second batch of one run is measured, so that a measured step and a bare one stand side by side and load on the
machine hits both; the ratio is the median over these pairs. A bare step still has the monitor's idle hooks, whose time
is measured apart. From the ratios follows the cost at the default cadence, at which few batches are due.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from plasticity_lightning.callbacks import PlasticityMonitor
from plasticity_lightning.callbacks.monitoring.cadence import INTERVALS
from plasticity_lightning.measures import MEASURES


class Critic(nn.Module):
    """Trunk and twin Q of DrQ-v2: 39200 -> 50, LayerNorm, Tanh; 50 + 6 -> 1024 -> 1024 -> 1, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(39200, 50), nn.LayerNorm(50), nn.Tanh())
        self.q1, self.q2 = (
            nn.Sequential(nn.Linear(56, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Q1 and Q2 [B, 2] of features and action, concatenated [B, 39206]."""
        h = torch.cat([self.trunk(x[:, :-6]), x[:, -6:]], dim=1)
        return torch.cat([self.q1(h), self.q2(h)], dim=1)


class Fit(pl.LightningModule):
    """One network, one loss, Adam."""

    def __init__(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss of the batch."""
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class Endless(torch.utils.data.IterableDataset):
    """One batch again and again, so that loading costs nothing."""

    def __init__(self, batch: tuple[Tensor, Tensor]) -> None:
        self.batch = batch

    def __iter__(self):
        while True:
            yield self.batch


class StepTimes(pl.Callback):
    """Wall time of each turn of the training loop; listed before the monitor, whose hooks it includes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Note the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def step_times(case: str, monitor: PlasticityMonitor, steps: int, batch_size: int, folder: str) -> list[float]:
    """Seconds of each step after the first two, an even number of them, beginning with a bare one."""
    torch.manual_seed(0)
    if case == "resnet18":
        from torchvision.models import resnet18  # only the benchmark needs it

        net, loss = resnet18(num_classes=10), functional.cross_entropy
        batch = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))
    else:
        net, loss = Critic(), functional.mse_loss
        batch = torch.randn(batch_size, 39206), torch.randn(batch_size, 2)
    times = StepTimes()
    trainer = pl.Trainer(
        max_steps=steps + 3,
        accelerator="auto",
        devices=1,
        logger=TensorBoardLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[times, monitor],
    )
    trainer.fit(Fit(net, loss), DataLoader(Endless(batch), batch_size=None))
    return times.seconds[2 : steps + 2]


def idle_microseconds(calls: int = 20000) -> float:
    """Time of the callback's four hooks in a batch at which nothing is due."""

    class Loop:
        total_batch_idx = 0

    class Trainer:
        fit_loop = Loop()

    monitor, trainer = PlasticityMonitor(every=10**9), Trainer()
    monitor._cadence.update(1)
    monitor._cadence.pending.clear()  # as if the baseline of the first batch had been served
    start = time.perf_counter()
    for _ in range(calls):
        monitor.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]  # idle hooks read no module
        monitor.on_before_optimizer_step(trainer, None, None)  # type: ignore[arg-type]  # idle hooks read no module
        monitor.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]  # idle hooks read no module
    return (time.perf_counter() - start) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps and small batches: shows that it runs")
    parser.add_argument("--cases", nargs="+", default=["critic", "resnet18"], choices=["critic", "resnet18"])
    parser.add_argument("--batch", type=int, help="batch size; 16 in quick runs, 256 of the critic, 128 of ResNet-18")
    parser.add_argument("--pairs", type=int, default=40, help="measured and bare steps of each variant")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = 3 if arguments.quick else arguments.pairs
    idle = idle_microseconds()
    print(f"idle hooks: {idle:.2f} us a batch")
    measures = PlasticityMonitor().measures
    cheap, moderate = ([m for m in measures if MEASURES[m].cost == cost] for cost in ("cheap", "moderate"))
    variants: dict[str, tuple[list[str], int]] = {
        "fau": (["fau"], 0),
        "cheap defaults": (cheap, 0),
        "cheap defaults with figures": (cheap, 2),
        "moderate defaults": (moderate, 0),
    }
    for case in arguments.cases:
        batch_size = arguments.batch or (16 if arguments.quick else {"critic": 256, "resnet18": 128}[case])
        ratios = {}
        for name, (chosen, figures) in variants.items():
            with tempfile.TemporaryDirectory() as folder:
                monitor = PlasticityMonitor(chosen, every=2, figure_every=figures)
                seconds = step_times(case, monitor, 2 * pairs, batch_size, folder)
            bare, measured = seconds[0::2], seconds[1::2]
            found = [m / b for m, b in zip(measured, bare, strict=True)]
            ratios[name] = statistics.median(found)
            low, _, high = statistics.quantiles(found, n=4)
            print(
                f"{case}, batch {batch_size}, {name}: bare step {statistics.median(bare) * 1e3:.1f} ms, "
                f"measured over bare {ratios[name]:.3f} (quartiles {low:.3f} to {high:.3f}, {pairs} pairs)"
            )
        step = statistics.median(bare)
        cost = idle * 1e-6 / step + (ratios["cheap defaults"] - 1) / INTERVALS["cheap"]
        cost += (ratios["moderate defaults"] - 1) / INTERVALS["moderate"]
        cost += (ratios["cheap defaults with figures"] - ratios["cheap defaults"]) / PlasticityMonitor().figure_every
        print(f"{case}: default cadence over bare {1 + cost:.4f}\n")


if __name__ == "__main__":
    main()
