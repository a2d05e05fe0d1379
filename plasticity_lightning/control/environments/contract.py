"""What a pixel environment is: one frame a step, a reward, a discount, and a state that can be saved to the bit.

A frame is uint8 [C, H, W]; stacking is the agent's affair (`frame_stack.py`, `replay`). The discount is 0 at a true
termination and 1 otherwise, also at a time limit, so that a learner bootstraps through time limits. Nothing here or in
any environment imports torch: environments run in processes without it. Source of the step: DeepMind's dm_env.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from plasticity_lightning.errors import UserError

__all__ = [
    "Actions",
    "BrokenEnvironmentError",
    "ContinuousActions",
    "DiscreteActions",
    "EnvironmentForm",
    "PixelEnvironment",
    "State",
    "Step",
]

State = dict[str, Any]
"""State of an environment: a tree of dict, list, str, bytes, int, float, bool and None, so that a checkpoint that
holds it loads with `torch.load(weights_only=True)`. Arrays enter it by `packing.pack`."""


class BrokenEnvironmentError(UserError):
    """An environment died or returned something that is no step: NaN, a wrong shape, a wrong type."""


class Step(NamedTuple):
    """What an environment returns.

    Args:
        frame: uint8 [C, H, W], seen after the action.
        reward: sum over the frames of the step (action repeat); 0 after a reset.
        discount: 0 at a true termination, else 1.
        last: whether the episode is over; the next call must be `reset`.
    """

    frame: np.ndarray
    reward: float
    discount: float
    last: bool


@dataclass(frozen=True)
class ContinuousActions:
    """Actions float32 [dim], each within [low, high]."""

    dim: int
    low: float = -1.0
    high: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action."""
        return (self.dim,)

    @property
    def dtype(self) -> type[np.generic]:
        """Type of an action's numbers."""
        return np.float32

    def check(self, action: np.ndarray) -> None:
        """Raise ValueError unless all actions [..., dim] are finite and within the bounds."""
        if action.shape[-1:] != self.shape:
            raise ValueError(
                f"action of shape {list(action.shape)}; the environment takes {self.dim} numbers an action"
            )
        # written so that NaN fails as well
        if not bool(np.all((action >= self.low) & (action <= self.high))):
            raise ValueError(f"action {action.tolist()} is not within [{self.low}, {self.high}]")

    def sample(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Uniform actions float32 [n, dim]."""
        return generator.uniform(self.low, self.high, (n, self.dim)).astype(np.float32)


@dataclass(frozen=True)
class DiscreteActions:
    """Actions int64 [], each in 0..n-1."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action."""
        return ()

    @property
    def dtype(self) -> type[np.generic]:
        """Type of an action."""
        return np.int64

    def check(self, action: np.ndarray) -> None:
        """Raise ValueError unless all actions [...] are whole numbers in 0..n-1."""
        if not np.issubdtype(action.dtype, np.integer):
            raise ValueError(f"action of type {action.dtype}; the environment takes integers in 0..{self.n - 1}")
        if not bool(np.all((action >= 0) & (action < self.n))):
            raise ValueError(f"action {action.tolist()} is not in 0..{self.n - 1}")

    def sample(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Uniform actions int64 [n]."""
        return generator.integers(0, self.n, n)


Actions = ContinuousActions | DiscreteActions


@dataclass(frozen=True)
class EnvironmentForm:
    """What an agent has to know of an environment before it sees it.

    Args:
        frame_shape: (C, H, W) of a frame.
        actions: what `step` takes.
        frames_per_step: simulated frames a step, the action repeat; published curves count frames.
        episode_steps: steps of the longest episode; None if there is no limit.
        resumable: whether `state` and `set_state` work; else a resumed run has to begin a new episode.
    """

    frame_shape: tuple[int, int, int]
    actions: Actions
    frames_per_step: int
    episode_steps: int | None
    resumable: bool


class PixelEnvironment(ABC):
    """One environment seen through one camera; subclasses fill in `render` and the four underscored methods.

    Args:
        name: for messages.
        frame_shape: (C, H, W) of a frame.
        actions: what `step` takes.
        frames_per_step: simulated frames a step, the action repeat; published curves count frames.
        episode_steps: steps of the longest episode; None if there is no limit.

    Attributes:
        resumable: whether `state` and `set_state` work; else a resumed run has to begin a new episode.

    Raises:
        ValueError: if a size is not positive.
    """

    resumable = True

    def __init__(
        self,
        name: str,
        frame_shape: tuple[int, int, int],
        actions: Actions,
        frames_per_step: int,
        episode_steps: int | None,
    ) -> None:
        sizes = (*frame_shape, frames_per_step, episode_steps or 1, *actions.shape)
        if len(frame_shape) != 3 or min(sizes) < 1:
            raise ValueError(
                f"{name}: frame_shape={frame_shape}, frames_per_step={frames_per_step}, episode_steps={episode_steps} "
                f"and actions={actions} must be positive, and a frame [C, H, W]"
            )
        self.name, self.frame_shape, self.actions = name, frame_shape, actions
        self.frames_per_step, self.episode_steps = frames_per_step, episode_steps
        self._over = True  # before the first reset and after a last step

    @property
    def form(self) -> EnvironmentForm:
        """Shapes and counts, for whoever does not hold the environment itself."""
        return EnvironmentForm(self.frame_shape, self.actions, self.frames_per_step, self.episode_steps, self.resumable)

    def reset(self) -> Step:
        """Begin an episode: its first frame with reward 0 and discount 1."""
        step = Step(self._reset(), 0.0, 1.0, False)
        self._check(step)
        self._over = False
        return step

    def step(self, action: np.ndarray) -> Step:
        """Act for `frames_per_step` frames.

        Args:
            action: float32 [dim] or integer [], see `actions`.

        Raises:
            ValueError: if the action is out of range.
            RuntimeError: if the episode is over.
            BrokenEnvironmentError: if what comes back is no step.
        """
        if self._over:
            raise RuntimeError(f"{self.name}: the episode is over; call reset() before step()")
        action = np.asarray(action, self.actions.dtype) if self.actions.shape else np.asarray(action)
        if action.shape != self.actions.shape:
            raise ValueError(f"{self.name}: action of shape {list(action.shape)}, expected {list(self.actions.shape)}")
        self.actions.check(action)
        step = self._step(action)
        self._check(step)
        self._over = step.last
        return step

    def state(self) -> State:
        """All that the future depends on: simulation, random state, counters, the episode in progress.

        Raises:
            UserError: if the environment is not `resumable`.
        """
        return {"over": self._over, **self._state()}

    def set_state(self, state: State) -> None:
        """Continue from `state` to the bit; from a fresh environment made with the same options."""
        self._over = state["over"]
        self._set_state(state)

    @abstractmethod
    def render(self, height: int, width: int) -> np.ndarray:
        """The present scene as uint8 [height, width, 3], for videos."""

    def close(self) -> None:  # noqa: B027 - most environments hold nothing
        """Release what the environment holds; more calls do nothing."""

    @abstractmethod
    def _reset(self) -> np.ndarray: ...

    @abstractmethod
    def _step(self, action: np.ndarray) -> Step: ...

    @abstractmethod
    def _state(self) -> State: ...

    @abstractmethod
    def _set_state(self, state: State) -> None: ...

    def _check(self, step: Step) -> None:
        frame = step.frame
        if frame.shape != self.frame_shape or frame.dtype != np.uint8:
            raise BrokenEnvironmentError(
                f"{self.name} returned a frame {frame.dtype} {list(frame.shape)}, not uint8 {list(self.frame_shape)}"
            )
        if not (np.isfinite(step.reward) and 0.0 <= step.discount <= 1.0):
            raise BrokenEnvironmentError(
                f"{self.name} returned reward {step.reward} and discount {step.discount}; a reward must be finite and "
                "a discount within [0, 1]"
            )
