"""One update of DrQ-v2 against the straightforward loop, the cost of watching it, and the Trainer's overhead of a tick.

Baseline: the update written as the published agent is, NCHW memory, random shift by grid_sample, Adam tensor by
tensor, target average in a loop; its sampling is left out, ours is included. Batch 256, 84x84x9, 2 actions. One
thread; times are CPU time of a process, the least of the rounds, the variants in turn. Whether the heap is kept belongs
to a process, so each choice has its own.

    python benchmarks/visual_control.py            # about 3 minutes of CPU time
    python benchmarks/visual_control.py --quick    # small: shows that it runs, not how fast
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor

from plasticity_lightning.callbacks import PlasticityMonitor
from plasticity_lightning.callbacks.monitoring.activations import ActivationCollector
from plasticity_lightning.control.environments.contract import ContinuousActions, EnvironmentForm
from plasticity_lightning.control.environments.steps import place_steps
from plasticity_lightning.control.replay import FrameReplay
from plasticity_lightning.modules import VisualControl
from plasticity_lightning.modules.control_options import EnvironmentOptions, LoopOptions, ReplayOptions
from plasticity_lightning.networks.pixel_actor_critic import PixelActor, PixelEncoder, TwinCritic
from plasticity_lightning.runtime.heap import keep_heap

ACTIONS = 2  # those of `reach`


class Straightforward:
    """The update of the published agent, with networks of the same sizes."""

    def __init__(self, size: int, hidden: int, batch: int) -> None:
        self.encoder = PixelEncoder((9, size, size))
        features = self.encoder.features
        self.actor, self.critic, self.target = (
            PixelActor(features, ACTIONS, hidden=hidden), TwinCritic(features, ACTIONS, hidden=hidden),
            TwinCritic(features, ACTIONS, hidden=hidden),
        )  # fmt: skip
        networks = (self.encoder, self.actor, self.critic)
        self.optimizers = [torch.optim.Adam(n.parameters(), lr=1e-4, foreach=False, fused=False) for n in networks]
        self.obs, self.next_obs = torch.randint(0, 256, (2, batch, 9, size, size), dtype=torch.uint8)
        self.action, self.reward = torch.rand(batch, ACTIONS) * 2 - 1, torch.rand(batch, 1)

    def __call__(self) -> None:
        """One update."""
        encoder_opt, actor_opt, critic_opt = self.optimizers
        h = self.encoder(grid_sample_shift(self.obs.float()) / 255.0 - 0.5)
        with torch.no_grad():
            h_next = self.encoder(grid_sample_shift(self.next_obs.float()) / 255.0 - 0.5)
            target = self.reward + 0.97 * torch.min(*self.target(h_next, self.noisy(self.actor(h_next))))
        q1, q2 = self.critic(h, self.action)
        loss = F.mse_loss(q1, target) + F.mse_loss(q2, target)
        encoder_opt.zero_grad(set_to_none=True)
        critic_opt.zero_grad(set_to_none=True)
        loss.backward()
        critic_opt.step()
        encoder_opt.step()
        h = h.detach()
        loss = -torch.min(*self.critic(h, self.noisy(self.actor(h)))).mean()
        actor_opt.zero_grad(set_to_none=True)
        loss.backward()
        actor_opt.step()
        with torch.no_grad():
            for ours, theirs in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                ours.data.copy_(0.01 * theirs.data + 0.99 * ours.data)

    def noisy(self, mean: Tensor) -> Tensor:
        """Exploration noise, clipped, with the gradient straight through the clamp."""
        noisy = mean + (0.2 * torch.randn_like(mean)).clamp(-0.3, 0.3)
        return noisy - noisy.detach() + noisy.clamp(-1 + 1e-6, 1 - 1e-6).detach()


def grid_sample_shift(x: Tensor, pad: int = 4) -> Tensor:
    n, _, h, _ = x.shape
    x = F.pad(x, (pad,) * 4, "replicate")
    eps = 1.0 / (h + 2 * pad)
    line = torch.linspace(-1.0 + eps, 1.0 - eps, h + 2 * pad)[:h]
    line = line.unsqueeze(0).repeat(h, 1).unsqueeze(2)
    grid = torch.cat([line, line.transpose(1, 0)], dim=2).unsqueeze(0).repeat(n, 1, 1, 1)
    shift = torch.randint(0, 2 * pad + 1, (n, 1, 1, 2)).float() * 2.0 / (h + 2 * pad)
    return F.grid_sample(x, grid + shift, padding_mode="zeros", align_corners=False)


class Ours:
    """`VisualControl.update` on batches drawn from a replay, without a Trainer around it."""

    def __init__(self, size: int, hidden: int, batch: int, bf16: bool) -> None:
        self.module = full_size(size, hidden, batch, 1)
        self.module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, assignment]
        optimizers = self.module.configure_optimizers()
        self.module.all_optimizers = lambda: optimizers  # type: ignore[method-assign]
        self.module.start_agent()
        self.replay = filled_replay(size, "bfloat16" if bf16 else "float32")
        self.batch, self.bf16 = batch, bf16

    def __call__(self) -> None:
        """One update."""
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
            self.module.update(self.replay.sample(self.batch))


def full_size(size: int, hidden: int, batch: int, ticks: int, learning_starts: int = 1) -> VisualControl:
    environment = EnvironmentOptions("reach", {"size": size, "episode_steps": 500}, mode="inline")
    replay = ReplayOptions(capacity=2000, batch_size=batch)
    loop = LoopOptions(1.0, 8, learning_starts, ticks_per_epoch=ticks)
    return VisualControl(environment, replay, loop, hidden=hidden)


def filled_replay(size: int, dtype: Any) -> FrameReplay:
    actions, shape = ContinuousActions(2), (3, size, size)
    replay = FrameReplay(shape, actions, 1000, dtype=dtype)
    rng = np.random.default_rng(0)
    replay.start(rng.integers(0, 256, (1, *shape), dtype=np.uint8))
    for _ in range(500):
        steps, _ = place_steps(None, 1, EnvironmentForm(shape, actions, 2, 500, True))
        steps.frame[...] = rng.integers(0, 256, steps.frame.shape, dtype=np.uint8)
        steps.reward[...], steps.discount[...], steps.last[...] = rng.random(), 1.0, False
        replay.add(steps)
    return replay


_variants: dict[str, Callable[[], None]] = {}


def prepare(kept: bool, size: int, hidden: int, batch: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kept:
        print(keep_heap())
        _variants["ours, f32"], _variants["ours, bf16"] = (Ours(size, hidden, batch, bf16) for bf16 in (False, True))
    _variants["straightforward"] = Straightforward(size, hidden, batch)


def cpu_seconds(variant: str) -> float:
    began = time.process_time()
    _variants[variant]()
    return time.process_time() - began


def compare_updates(size: int, hidden: int, batch: int, rounds: int) -> float:
    """Prints the table; returns CPU seconds of our f32 update."""
    context = multiprocessing.get_context("spawn")
    pools = {kept: context.Pool(1) for kept in (False, True)}
    for kept, pool in pools.items():
        pool.apply(prepare, (kept, size, hidden, batch))
    runs = [(False, "straightforward"), (True, "straightforward"), (True, "ours, f32"), (True, "ours, bf16")]
    times: dict[tuple[bool, str], list[float]] = {run: [] for run in runs}
    for round_ in range(rounds + 1):
        for kept, variant in runs:
            seconds = pools[kept].apply(cpu_seconds, (variant,))
            if round_:  # the first one warms up
                times[kept, variant].append(seconds)
    for pool in pools.values():
        pool.terminate()
    best = {run: min(values) for run, values in times.items()}
    plain, kept = best[False, "straightforward"], best[True, "straightforward"]
    print(
        "| one update | CPU ms | against the straightforward loop | against it with the heap kept |\n|---|---|---|---|"
    )
    for (heap, variant), seconds in best.items():
        name = f"{variant}{', heap kept' if heap else ''}"
        print(f"| {name} | {1000 * seconds:.0f} | {plain / seconds:.2f} | {kept / seconds:.2f} |")
    return best[True, "ours, f32"]


class Watching:
    """CPU seconds that a monitor takes, summed over its hooks."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time counts; within another timed one it counts once."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.process_time() - began

        return wrapper


def watch_updates(size: int, hidden: int, batch: int, updates: int) -> None:
    """Cost of FAU at every update, in the Trainer, as a share of the whole tick."""
    critic = {"activations": "critic.q?.act_*", "groups": {"critic": "critic.*"}}
    for name, options in (("critic", critic), ("encoder, actor and critic", {})):
        monitor, watching = PlasticityMonitor(["fau"], every=1, figure_every=0, **options), Watching()  # type: ignore[arg-type]
        for hook in ("on_train_batch_start", "on_train_batch_end"):
            setattr(monitor, hook, watching.timed(getattr(monitor, hook)))
        see = ActivationCollector._see
        ActivationCollector._see = watching.timed(see)  # type: ignore[method-assign]
        try:
            model = full_size(size, hidden, batch, updates + 8, learning_starts=8)
            updating = Watching()
            model.training_step = updating.timed(model.training_step)  # type: ignore[method-assign]
            fit(model, [monitor])
        finally:
            ActivationCollector._see = see  # type: ignore[method-assign]
        share = 100 * watching.seconds / (updating.seconds - watching.seconds)
        print(f"FAU of {name} at every update: at most {share:.2f} % of an update ({model.updates} updates)")


def fit(model: pl.LightningModule, callbacks: list[pl.Callback]) -> float:
    trainer = pl.Trainer(
        max_epochs=1, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", limit_val_batches=0, num_sanity_val_steps=0, log_every_n_steps=50,
    )  # fmt: skip
    began = time.process_time()
    trainer.fit(model)
    return time.process_time() - began


def overhead_of_a_tick(ticks: int, update_seconds: float) -> None:
    """A tick without update in the Trainer against the same calls in a loop, on 24x24 frames and uniform actions."""

    def make(n: int) -> VisualControl:
        options = EnvironmentOptions("reach", mode="inline"), ReplayOptions(capacity=2 * ticks, batch_size=8)
        return VisualControl(*options, LoopOptions(1.0, n + 1, n + 1, ticks_per_epoch=n), channels=4, hidden=8)

    fit(make(10), [])  # compiles the replay
    in_trainer = fit(make(ticks), []) - fit(make(1), [])
    model = make(ticks)
    model._trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    model.on_train_start()
    began = time.process_time()
    for _ in range(ticks):
        assert model._collector is not None
        model._collector.submit(model._choose_actions())
        model._learn()
        model._store(model._collector.result())
    alone = time.process_time() - began
    overhead = (in_trainer - alone) / ticks
    print(
        f"a tick without update: {1000 * in_trainer / ticks:.2f} ms in the Trainer, {1000 * alone / ticks:.2f} ms alone: ",
        end="",
    )
    print(
        f"overhead {1000 * overhead:.2f} ms, {100 * overhead / (overhead + update_seconds):.2f} % of a tick with one full-size update"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    size, hidden, batch, rounds = (24, 32, 8, 1) if quick else (84, 1024, 256, 5)
    seconds = compare_updates(size, hidden, batch, rounds)
    print(keep_heap())
    watch_updates(size, hidden, batch, 2 if quick else 8)
    overhead_of_a_tick(50 if quick else 2000, seconds)


if __name__ == "__main__":
    main()
