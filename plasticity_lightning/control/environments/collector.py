"""Several environments stepped together, in this process or each in its own, with the same results to the bit.

One tick is `submit(actions)`, then `result()`; between the two the processes of mode "process" simulate and render
while this process does something else. An environment whose episode ends is reset in the same tick: the step then
carries both the last frame of the old episode and the first of the new one, so no tick is lost and an action is
always taken on a frame of a running episode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from plasticity_lightning.control.environments.contract import Actions, PixelEnvironment, State
from plasticity_lightning.control.environments.registry import make_environment
from plasticity_lightning.errors import nearest

__all__ = ["Collector", "EnvironmentSpec", "Mode", "Steps"]

Mode = Literal["inline", "process"]


@dataclass(frozen=True)
class EnvironmentSpec:
    """An environment by name and options, so that another process can build it.

    Args:
        name: see `make_environment`.
        options: arguments of the environment's class, without the seed.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, seed: int) -> PixelEnvironment:
        """Build it; see `make_environment` for errors."""
        return make_environment(self.name, seed=seed, **self.options)


@dataclass(frozen=True)
class Steps:
    """One step of E environments.

    Args:
        action: float32 [E, A] or int64 [E], what was done.
        frame: uint8 [E, C, H, W], seen after it.
        reward: float32 [E].
        discount: float32 [E], 0 at a true termination.
        last: bool [E], whether the episode ended with `frame`.
        reset_frame: uint8 [E, C, H, W], first frame of the next episode where `last`, undefined elsewhere.
    """

    action: np.ndarray
    frame: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    last: np.ndarray
    reset_frame: np.ndarray


class Collector:
    """E environments of one kind.

    Args:
        spec: what to build.
        seeds: one an environment; E is their number. Ranks of a distributed run pass different ones.
        mode: "inline" steps them one after the other in `result` (the oracle of the tests); "process" in processes
            of their own, without torch, frames through shared memory.

    Attributes:
        frame_shape, actions, frames_per_step, episode_steps: of one environment, see `PixelEnvironment`.

    Raises:
        ValueError: if there is no seed or the mode is unknown.
        UserError: if the environment cannot be built.
    """

    frame_shape: tuple[int, int, int]
    actions: Actions
    frames_per_step: int
    episode_steps: int | None

    def __init__(self, spec: EnvironmentSpec, seeds: list[int], mode: Mode = "process") -> None:
        if not seeds:
            raise ValueError("a collector needs at least one seed, one an environment")
        if mode not in ("inline", "process"):
            raise ValueError(f"mode={mode!r} must be 'inline' or 'process'{nearest(mode, ('inline', 'process'))}")
        self.spec, self.n = spec, len(seeds)
        self._environments = [spec.make(seed) for seed in seeds]
        first = self._environments[0]
        self.frame_shape, self.actions = first.frame_shape, first.actions
        self.frames_per_step, self.episode_steps = first.frames_per_step, first.episode_steps
        self._submitted: np.ndarray | None = None

    def reset(self) -> np.ndarray:
        """Begin an episode everywhere; returns the first frames uint8 [E, C, H, W]."""
        self._submitted = None
        return np.stack([environment.reset().frame for environment in self._environments])

    def submit(self, actions: np.ndarray) -> None:
        """Let every environment take its action.

        Args:
            actions: float32 [E, A] or int64 [E].

        Raises:
            ValueError: if an action is out of range.
            RuntimeError: if the last result has not been fetched.
        """
        if self._submitted is not None:
            raise RuntimeError("submit: fetch the result of the last actions first")
        actions = np.ascontiguousarray(actions, self.actions.dtype)
        if actions.shape != (self.n, *self.actions.shape):
            raise ValueError(f"actions of shape {list(actions.shape)}, expected {[self.n, *self.actions.shape]}")
        self.actions.check(actions)
        self._submitted = actions

    def result(self) -> Steps:
        """Wait for the step of the submitted actions.

        Raises:
            RuntimeError: if nothing was submitted.
            BrokenEnvironmentError: if an environment died or returned no step, a NaN for instance.
        """
        if self._submitted is None:
            raise RuntimeError("result: submit actions first")
        actions, self._submitted = self._submitted, None
        steps = Steps(
            actions,
            np.zeros((self.n, *self.frame_shape), np.uint8),
            np.zeros(self.n, np.float32),
            np.ones(self.n, np.float32),
            np.zeros(self.n, bool),
            np.zeros((self.n, *self.frame_shape), np.uint8),
        )
        for i, environment in enumerate(self._environments):
            step = environment.step(actions[i])
            steps.frame[i], steps.reward[i], steps.discount[i], steps.last[i] = step
            if step.last:
                steps.reset_frame[i] = environment.reset().frame
        return steps

    def state(self) -> list[State]:
        """States of all environments, between `result` and `submit`.

        Raises:
            RuntimeError: if a result has not been fetched.
        """
        if self._submitted is not None:
            raise RuntimeError("state: fetch the result of the submitted actions first")
        return [environment.state() for environment in self._environments]

    def set_state(self, states: list[State]) -> None:
        """Continue from `state`, of a collector of either mode with the same environments.

        Raises:
            ValueError: if the number of environments differs.
        """
        if len(states) != self.n:
            raise ValueError(f"the state is of {len(states)} environments, this collector has {self.n}")
        self._submitted = None
        for environment, state in zip(self._environments, states, strict=True):
            environment.set_state(state)

    def close(self) -> None:
        """End the environments and their processes; more calls do nothing."""
        for environment in self._environments:
            environment.close()
        self._environments = []
