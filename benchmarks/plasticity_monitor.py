"""Step time with and without PlasticityMonitor: ResNet-18, and the critic of visual RL, in interleaved rounds of one run.

A round trains each variant for the same number of steps, in turn, and the ratio is the median over rounds of a variant's
time over that of the bare run of the same round: load on the machine hits all variants alike. At the default cadence
a long cycle of batches holds a few due ones, so its cost is reported as: the share of non-due batches from the timed
rounds, plus the time of the due ones, timed apart, spread over their intervals.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import lightning.pytorch as pl
import torch
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
        h = torch.cat([self.trunk(x[:, :-6]), x[:, -6:]], dim=1)
        return torch.cat([self.q1(h), self.q2(h)], dim=1)


class Fit(pl.LightningModule):
    def __init__(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class Endless(torch.utils.data.IterableDataset):
    """One batch again and again, so that loading costs nothing."""

    def __init__(self, batch: tuple[Tensor, Tensor]) -> None:
        self.batch = batch

    def __iter__(self):  # noqa: ANN204
        while True:
            yield self.batch


class StepTimes(pl.Callback):
    """Wall time of each step, from before the monitor's first hook to after its last: list it twice around it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:  # noqa: ANN001
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)  # a whole turn of the loop
        self._last = now


def step_times(case: str, monitor: PlasticityMonitor | None, steps: int, batch_size: int) -> list[float]:
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
        max_steps=steps + 2,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[times, *([] if monitor is None else [monitor])],
    )
    trainer.fit(Fit(net, loss), DataLoader(Endless(batch), batch_size=None))
    return times.seconds[1:]  # the first step warms up, and is the monitor's baseline


def never(every: int = 10**9) -> dict[str, int]:
    """Intervals at which nothing is due after the first batch."""
    return dict.fromkeys(PlasticityMonitor().measures, every)


def idle_microseconds(calls: int = 20000) -> float:
    """Time of the callback's four hooks in a batch at which nothing is due."""

    class Loop:
        total_batch_idx = 0

    class Trainer:
        fit_loop = Loop()

    monitor, trainer = PlasticityMonitor(), Trainer()
    monitor._cadence.update(0)
    trainer.fit_loop.total_batch_idx = 0
    monitor._cadence.pending.clear()
    monitor._cadence._next = 10**9
    start = time.perf_counter()
    for _ in range(calls):
        monitor.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        monitor.on_before_optimizer_step(trainer, None, None)  # type: ignore[arg-type]
        monitor.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
    return (time.perf_counter() - start) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps and small batches: shows that it runs")
    parser.add_argument("--cases", nargs="+", default=["critic", "resnet18"], choices=["critic", "resnet18"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds, steps = (2, 3) if arguments.quick else (9, 12)
    print(f"idle hooks: {idle_microseconds():.2f} us a batch")
    for case in arguments.cases:
        batch_size = 16 if arguments.quick else {"critic": 256, "resnet18": 128}[case]
        measures = PlasticityMonitor().measures
        kinds = {cost: [m for m in measures if MEASURES[m].cost == cost] for cost in INTERVALS}
        variants: dict[str, Callable[[], PlasticityMonitor | None]] = {
            "bare": lambda: None,
            "nothing due": lambda: PlasticityMonitor(every=never()),
            "fau at every step": lambda: PlasticityMonitor(["fau"], every=1, figure_every=0),
            "cheap defaults at every step": lambda k=kinds: PlasticityMonitor(k["cheap"], every=1, figure_every=0),
            "moderate defaults at every step": lambda k=kinds: PlasticityMonitor(
                k["moderate"], every=1, figure_every=0
            ),
        }
        medians: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, make in variants.items():
                medians[name].append(statistics.median(step_times(case, make(), steps, batch_size)))
        bare = medians["bare"]
        ratio = {n: statistics.median(v / b for v, b in zip(m, bare, strict=True)) for n, m in medians.items()}
        print(f"\n{case}, batch {batch_size}: bare step {statistics.median(bare) * 1e3:.1f} ms")
        for name in list(variants)[1:]:
            print(f"  {name}: ratio {ratio[name]:.3f}")
        due = (ratio["cheap defaults at every step"] - 1) / INTERVALS["cheap"]
        due += (ratio["moderate defaults at every step"] - 1) / INTERVALS["moderate"]
        print(f"  default cadence: ratio {ratio['nothing due'] + due:.4f}, of which due batches {due:.4f}")


if __name__ == "__main__":
    main()
