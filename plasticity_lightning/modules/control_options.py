"""What the loop of visual control can be told, in three groups that every agent shares: environment, replay, loop.

The defaults are those of DrQ-v2 (Yarats et al. 2021 and its published settings), but for the environment, which is the
small task that needs no simulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from plasticity_lightning.control.environments.collector import EnvironmentSpec, Mode
from plasticity_lightning.control.environments.frame_stack import Padding
from plasticity_lightning.control.replay.draw import Order
from plasticity_lightning.control.replay.replay import Storage, Tail
from plasticity_lightning.control.update_credit import exact_ratio

__all__ = ["CompileMode", "EnvironmentOptions", "LoopOptions", "ReplayOptions"]

CompileMode = Literal["none", "default", "reduce-overhead", "graph"]


@dataclass(frozen=True)
class EnvironmentOptions:
    """Which environment, how many, and where they run.

    Args:
        name: see `control.environments.make_environment`.
        options: arguments of the environment's class.
        number: environments stepped together on each rank, at least 1; a tick is a step of each.
        mode: "process" steps and renders each in a process of its own while updates run; "inline" in this one. The
            results are the same to the bit.
        stack: frames that make an observation, at least 1.
        padding: what stands before an episode's first frame: that frame again ("repeat") or black ("zero").

    Raises:
        ValueError: if a number is out of range.
    """

    name: str = "reach"
    options: dict[str, Any] = field(default_factory=dict)
    number: int = 1
    mode: Mode = "process"
    stack: int = 3
    padding: Padding = "repeat"

    def __post_init__(self) -> None:
        _at_least(1, number=self.number, stack=self.stack)

    @property
    def spec(self) -> EnvironmentSpec:
        """What builds it."""
        return EnvironmentSpec(self.name, dict(self.options))


@dataclass(frozen=True)
class ReplayOptions:
    """What is kept and how batches are drawn; see `FrameReplay`.

    Args:
        capacity: frames kept on each rank.
        batch_size: transitions an update.
        n_step: steps of a transition, not more than an episode has.
        discount: gamma of one step, in (0, 1].
        pad: width of the random shift in pixels.
        augment_from: environment steps before the random shift is switched on.
        augment_until: steps after which it is switched off; None never, 0 trains without.
        storage: "memory", "memmap" (on disk) or "device".
        order: "transition" draws uniformly over transitions, "episode" as the published code.
        tail: "full" draws only transitions of n steps, "short" also those that the end of an episode cuts.
        threads: that fill a batch.
        prefetch: make the next batch of a tick while one is used; changes nothing that is drawn.
        checkpoint: keep the content beside the checkpoints. Without it a resumed run starts with an empty replay and
            fills it anew before it learns on: it is not the uninterrupted run.

    Raises:
        ValueError: if a number is out of range.
    """

    capacity: int = 1_000_000
    batch_size: int = 256
    n_step: int = 3
    discount: float = 0.99
    pad: int = 4
    augment_from: int = 0
    augment_until: int | None = None
    storage: Storage = "memory"
    order: Order = "transition"
    tail: Tail = "full"
    threads: int = 1
    prefetch: bool = False
    checkpoint: bool = True

    def __post_init__(self) -> None:
        _at_least(1, batch_size=self.batch_size, capacity=self.capacity, n_step=self.n_step, threads=self.threads)
        _at_least(0, pad=self.pad, augment_from=self.augment_from, augment_until=self.augment_until or 0)


@dataclass(frozen=True)
class LoopOptions:
    """When the agent explores, learns and is evaluated; steps are environment steps, each of several frames.

    Args:
        replay_ratio: updates per environment step, positive; any decimal number is kept exactly.
        random_steps: first steps, with uniform actions.
        learning_starts: steps before the first update, at least 1.
        evaluation_episodes: episodes of a validation, test or prediction.
        ticks_per_epoch: ticks that the Trainer calls an epoch.
        compile: for GPUs: "default" compiles the agent's networks with `torch.compile`, "reduce-overhead" also records them
            as CUDA graphs; "graph" records whole updates, optimisers and target included, as one CUDA graph; "none" runs
            them eagerly, which is faster on CPUs. Batches that a monitor watches run eagerly.
        updates_per_launch: with "graph", most updates of a tick that are recorded together; each takes the memory of a batch.
        seed: root of every random choice: environments, exploration, replay, noise; each rank derives its own.

    Raises:
        ValueError: if a number is out of range.
    """

    replay_ratio: float = 0.5
    random_steps: int = 2000
    learning_starts: int = 2000
    evaluation_episodes: int = 10
    ticks_per_epoch: int = 10_000
    compile: CompileMode = "none"
    updates_per_launch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        exact_ratio(self.replay_ratio)
        if self.compile not in get_args(CompileMode):
            raise ValueError(f"compile={self.compile!r} must be one of {', '.join(get_args(CompileMode))}")
        _at_least(0, random_steps=self.random_steps, seed=self.seed)
        _at_least(
            1,
            learning_starts=self.learning_starts,
            evaluation_episodes=self.evaluation_episodes,
            ticks_per_epoch=self.ticks_per_epoch,
            updates_per_launch=self.updates_per_launch,
        )


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name}={number} must be at least {least}")
