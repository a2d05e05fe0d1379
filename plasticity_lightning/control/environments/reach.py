"""A tiny visual-control task without a simulator: move a blue point onto an orange target.

The point and the target start uniformly in [-0.8, 0.8]^2; x <- clip(x + 0.15 a, -1, 1) with a in [-1, 1]^2; the
reward is exp(-distance / 0.4); an episode has 40 steps and ends by time. In the mean, uniform actions return 6.9,
standing still 7.6, moving straight to the target 37.4.
"""

from __future__ import annotations

import numpy as np

from plasticity_lightning.control.environments.contract import ContinuousActions, PixelEnvironment, State, Step
from plasticity_lightning.control.environments.packing import generator_state, pack, set_generator_state, unpack

__all__ = ["ReachEnvironment"]

_POINT, _TARGET = (40, 90, 255), (255, 140, 0)


class ReachEnvironment(PixelEnvironment):
    """See the module's text.

    Args:
        seed: of the starting positions.
        size: height and width of the frame [3, size, size], at least 8.
        episode_steps: steps of an episode.
        speed: way of a step at full action, in units of half the square's side.
        reward_scale: distance at which the reward has fallen to 1/e.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        seed: int = 0,
        size: int = 24,
        episode_steps: int = 40,
        speed: float = 0.15,
        reward_scale: float = 0.4,
    ) -> None:
        if size < 8:
            raise ValueError(f"reach: size={size} must be at least 8, or the points cannot be told apart")
        if speed <= 0 or reward_scale <= 0:
            raise ValueError(f"reach: speed={speed} and reward_scale={reward_scale} must be positive")
        super().__init__("reach", (3, size, size), ContinuousActions(2), 1, episode_steps)
        self.speed, self.reward_scale = speed, reward_scale
        self._generator = np.random.default_rng(seed)
        self._position = np.zeros(2)
        self._target = np.zeros(2)
        self._elapsed = 0

    def render(self, height: int, width: int) -> np.ndarray:
        """The square seen from above as uint8 [height, width, 3]: orange target below blue point, on black."""
        image = np.zeros((height, width, 3))
        scale = np.array([height, width])
        # centres of pixels; the discs, 0.12 of the side in radius, stay inside the frame
        rows, columns = np.mgrid[0:height, 0:width] + 0.5
        for place, colour in ((self._target, _TARGET), (self._position, _POINT)):
            centre = scale * (0.5 + 0.38 * place)
            distance = np.hypot(rows - centre[0], columns - centre[1])
            # edges are soft, so that a move by a part of a pixel is seen
            cover = np.clip(0.12 * min(height, width) + 0.5 - distance, 0.0, 1.0)[..., None]
            image = image * (1 - cover) + cover * np.array(colour)
        return np.rint(image).astype(np.uint8)

    def _reset(self) -> np.ndarray:
        self._position, self._target = self._generator.uniform(-0.8, 0.8, (2, 2))
        self._elapsed = 0
        return self._frame()

    def _step(self, action: np.ndarray) -> Step:
        self._position = np.clip(self._position + self.speed * action.astype(np.float64), -1, 1)
        self._elapsed += 1
        distance = float(np.linalg.norm(self._position - self._target))
        reward = float(np.exp(-distance / self.reward_scale))
        return Step(self._frame(), reward, 1.0, self._elapsed == self.episode_steps)

    def _state(self) -> State:
        return {
            "generator": generator_state(self._generator),
            "position": pack(self._position),
            "target": pack(self._target),
            "elapsed": self._elapsed,
        }

    def _set_state(self, state: State) -> None:
        set_generator_state(self._generator, state["generator"])
        self._position, self._target = unpack(state["position"]), unpack(state["target"])
        self._elapsed = state["elapsed"]

    def _frame(self) -> np.ndarray:
        return np.ascontiguousarray(self.render(*self.frame_shape[1:]).transpose(2, 0, 1))
