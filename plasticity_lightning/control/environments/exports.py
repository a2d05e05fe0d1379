"""Our pixel environments for other people's agents: as `dm_env.Environment` and as `gymnasium.Env`.

Both stack frames as our own agents see them. Importing this file registers `plasticity/NAME-v0` with Gymnasium for the task
`reach` and, where dm_control can be used, for its suite; `gymnasium.make` imports it by itself when the id is written
`plasticity_lightning.control.environments.exports:plasticity/reach-v0`.
"""

from __future__ import annotations

from typing import Any

import dm_env
import gymnasium
import numpy as np
from dm_env import specs

from plasticity_lightning.control.environments.contract import ContinuousActions, PixelEnvironment, Step
from plasticity_lightning.control.environments.dm_control_suite import suite_tasks
from plasticity_lightning.control.environments.frame_stack import FrameStack, Padding
from plasticity_lightning.control.environments.registry import EnvironmentSpec
from plasticity_lightning.control.environments.steps import Steps
from plasticity_lightning.errors import UserError

__all__ = ["DmEnvironment", "GymnasiumPixels", "make_gymnasium"]


class _Stacked:
    """One environment whose observations are stacks of frames."""

    def __init__(self, environment: PixelEnvironment, stack: int, padding: Padding) -> None:
        c, h, w = environment.frame_shape
        self.environment, self.shape = environment, (stack * c, h, w)
        self._stack = FrameStack(stack, padding)

    def reset(self) -> np.ndarray:
        return self._stack.reset(self.environment.reset().frame[None])[0]

    def step(self, action: np.ndarray) -> tuple[Step, np.ndarray]:
        step = self.environment.step(action)
        # the frame that ends an episode is stacked like any other
        one = np.array([False])
        steps = Steps(np.asarray(action)[None], step.frame[None], np.zeros(1), np.ones(1), one, step.frame[None])
        return step, self._stack.push(steps)[0]


class DmEnvironment(dm_env.Environment):
    """A pixel environment as dm_env; observations uint8 [stack * C, H, W].

    Args:
        environment: what to wrap; `close` closes it.
        stack: frames an observation.
        padding: what stands before an episode's first frame.
    """

    def __init__(self, environment: PixelEnvironment, stack: int = 3, padding: Padding = "repeat") -> None:
        self._stacked = _Stacked(environment, stack, padding)
        self._over = True

    def reset(self) -> dm_env.TimeStep:
        """Begin an episode."""
        self._over = False
        return dm_env.restart(self._stacked.reset())

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Act; after a last step, begin an episode instead."""
        if self._over:
            return self.reset()
        step, observation = self._stacked.step(action)
        self._over = step.last
        kind = dm_env.StepType.LAST if step.last else dm_env.StepType.MID
        return dm_env.TimeStep(kind, step.reward, step.discount, observation)

    def observation_spec(self) -> specs.Array:
        """uint8 [stack * C, H, W]."""
        return specs.BoundedArray(self._stacked.shape, np.uint8, 0, 255, "pixels")

    def action_spec(self) -> specs.Array:
        """Of the wrapped environment."""
        actions = self._stacked.environment.actions
        if isinstance(actions, ContinuousActions):
            return specs.BoundedArray(actions.shape, np.float32, actions.low, actions.high, "action")
        return specs.DiscreteArray(actions.n, np.int64, "action")

    def close(self) -> None:
        """Close the wrapped environment."""
        self._stacked.environment.close()


class GymnasiumPixels(gymnasium.Env[np.ndarray, Any]):
    """A pixel environment for Gymnasium; observations uint8 [stack * C, H, W].

    Args:
        spec: what to build; `reset(seed=...)` builds it anew.
        stack: frames an observation.
        padding: what stands before an episode's first frame.
        render_mode: "rgb_array" lets `render` return images, None nothing.
        render_size: height and width of these images.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        spec: EnvironmentSpec,
        stack: int = 3,
        padding: Padding = "repeat",
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        self._spec, self._stack, self._padding, self._render_size = spec, stack, padding, render_size
        self.render_mode = render_mode
        self._build(0)
        self.observation_space = gymnasium.spaces.Box(0, 255, self._stacked.shape, np.uint8)
        actions = self._stacked.environment.actions
        self.action_space = (
            gymnasium.spaces.Box(actions.low, actions.high, actions.shape, np.float32)
            if isinstance(actions, ContinuousActions)
            else gymnasium.spaces.Discrete(actions.n)
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.close()
            self._build(seed)
        return self._stacked.reset(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act; a discount of 0 is a termination, another end a truncation."""
        step, observation = self._stacked.step(action)
        terminated = step.last and step.discount == 0
        return observation, float(step.reward), terminated, step.last and not terminated, {}

    def render(self) -> np.ndarray | None:
        """The scene as uint8 [render_size, render_size, 3]."""
        if self.render_mode is None:
            return None
        return self._stacked.environment.render(self._render_size, self._render_size)

    def close(self) -> None:
        """Close the environment."""
        self._stacked.environment.close()

    def _build(self, seed: int) -> None:
        self._stacked = _Stacked(self._spec.make(seed), self._stack, self._padding)


def make_gymnasium(
    name: str, stack: int = 3, padding: Padding = "repeat", render_mode: str | None = None, **options: Any
) -> GymnasiumPixels:
    """`GymnasiumPixels` of `make_environment(name, **options)`."""
    return GymnasiumPixels(EnvironmentSpec(name, options), stack, padding, render_mode)


def _register() -> None:
    try:
        tasks = list(suite_tasks())
    except UserError:  # without dm_control or OpenGL there is still the other task
        tasks = []
    for name in ("reach", *tasks):
        gymnasium.register(f"plasticity/{name}-v0", f"{__name__}:make_gymnasium", kwargs={"name": name})


_register()
