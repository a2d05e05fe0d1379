"""Any environment of Gymnasium as a pixel environment: its images if it observes images, else what it renders.

Gymnasium knows no saved states. An environment can be resumed if the innermost one offers `get_state()` and
`set_state(state)`, where the state is made of numbers, strings, bytes, lists and dicts and holds all that the future depends
on, random state included; otherwise `resumable` is False and a resumed run begins a new episode.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plasticity_lightning.control.environments.contract import (
    Actions,
    ContinuousActions,
    DiscreteActions,
    PixelEnvironment,
    State,
    Step,
)
from plasticity_lightning.control.environments.resize import area_resize
from plasticity_lightning.errors import UserError, nearest

__all__ = ["GymnasiumEnvironment"]


class GymnasiumEnvironment(PixelEnvironment):
    """Continuous actions are scaled from [-1, 1] to the environment's bounds; discrete ones count from 0.

    Args:
        name: id of `gymnasium.make`, with or without `module:` before it.
        seed: of the first reset; later episodes go on from there.
        size: height and width of the frame [3, size, size]; None takes the image as it is, grey or in colour.
        action_repeat: steps of the environment an action; their rewards are summed.
        options: further arguments of `gymnasium.make`.

    Raises:
        ValueError: if action_repeat < 1.
        UserError: if there is no such environment, or its actions are neither discrete nor a bounded vector.
    """

    def __init__(
        self,
        name: str,
        seed: int = 0,
        size: int | None = 84,
        action_repeat: int = 1,
        options: dict[str, Any] | None = None,
    ) -> None:
        import gymnasium

        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat} must be at least 1")
        try:
            self._environment: Any = gymnasium.make(name, render_mode="rgb_array", **(options or {}))
        except gymnasium.error.NameNotFound as error:
            raise UserError(f"gymnasium has no environment {name!r}{nearest(name, gymnasium.registry, n=3)}") from error
        except gymnasium.error.Error as error:
            raise UserError(f"gymnasium cannot make {name!r}: {error}") from error
        self._observes = _is_image(self._environment.observation_space)
        self._size, self._seed = size, seed
        self._first: int | None = seed
        actions = self._actions(name)
        c, h, w = self._look(self._environment.reset(seed=seed)[0]).shape
        limit = getattr(self._environment.spec, "max_episode_steps", None)
        super().__init__(name, (c, h, w), actions, action_repeat, None if limit is None else -(-limit // action_repeat))
        inner = self._environment.unwrapped
        self.resumable = hasattr(inner, "get_state") and hasattr(inner, "set_state")

    def render(self, height: int, width: int) -> np.ndarray:
        """What the environment renders, as uint8 [height, width, 3]."""
        return area_resize(np.asarray(self._environment.render(), np.uint8), height, width)

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()

    def _reset(self) -> np.ndarray:
        observation, _ = self._environment.reset(seed=self._first)
        self._first = None
        return self._look(observation)

    def _step(self, action: np.ndarray) -> Step:
        inner: Any = int(action) + self._offset if isinstance(self.actions, DiscreteActions) else self._scaled(action)
        total = 0.0
        for _ in range(self.frames_per_step):
            observation, reward, terminated, truncated, _ = self._environment.step(inner)
            total += float(reward)
            if terminated or truncated:
                break
        return Step(self._look(observation), total, 0.0 if terminated else 1.0, bool(terminated or truncated))

    def _state(self) -> State:
        if not self.resumable:
            raise UserError(
                f"{self.name} cannot save its state: its innermost environment has no get_state() and set_state()"
            )
        # the elapsed steps of Gymnasium's own time limit, where there is one
        return {"inner": self._environment.unwrapped.get_state(), "limits": [w._elapsed_steps for w in self._limits()]}

    def _set_state(self, state: State) -> None:
        self._first = None
        self._environment.reset(seed=self._seed)  # wrappers insist on one
        self._environment.unwrapped.set_state(state["inner"])
        for wrapper, elapsed in zip(self._limits(), state["limits"], strict=True):
            wrapper._elapsed_steps = elapsed

    def _limits(self) -> list[Any]:
        found, layer = [], self._environment
        while layer is not layer.unwrapped:
            if hasattr(layer, "_elapsed_steps"):
                found.append(layer)
            layer = layer.env
        return found

    def _actions(self, name: str) -> Actions:
        from gymnasium import spaces

        space = self._environment.action_space
        if isinstance(space, spaces.Discrete):
            self._offset = int(space.start)
            return DiscreteActions(int(space.n))
        if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.is_bounded():
            self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
            return ContinuousActions(int(np.prod(space.shape)))
        raise UserError(f"{name} takes actions {space}; discrete ones and bounded vectors are supported")

    def _scaled(self, action: np.ndarray) -> np.ndarray:
        scaled = self._low + (action.astype(np.float64) + 1) * 0.5 * (self._high - self._low)
        return scaled.astype(self._environment.action_space.dtype)

    def _look(self, observation: Any) -> np.ndarray:
        image = np.asarray(observation if self._observes else self._environment.render())
        if self._size is not None:
            image = area_resize(image, self._size, self._size)
        return np.ascontiguousarray(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))


def _is_image(space: Any) -> bool:
    shape: tuple[int, ...] = getattr(space, "shape", None) or ()
    return space.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3)))
