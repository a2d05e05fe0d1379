"""The last frames of each environment, stacked along the channels: what an agent sees when it acts.

The replay stacks the same frames by the same rule when it samples; a test compares the two.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from plasticity_lightning.control.environments.steps import Steps

__all__ = ["FrameStack", "Padding"]

Padding = Literal["repeat", "zero"]
"""What stands before an episode's first frame: that frame again (DrQ-v2), or black (Dopamine)."""


class FrameStack:
    """Observations uint8 [E, stack * C, H, W], oldest frame first.

    Args:
        stack: frames an observation.
        padding: what fills the stack at an episode's start.

    Raises:
        ValueError: if stack < 1 or the padding is unknown.
    """

    def __init__(self, stack: int, padding: Padding = "repeat") -> None:
        if stack < 1 or padding not in ("repeat", "zero"):
            raise ValueError(f"stack={stack} must be at least 1 and padding={padding!r} 'repeat' or 'zero'")
        self.stack, self.padding = stack, padding
        self._frames = np.zeros((0, stack, 0, 0, 0), np.uint8)

    @property
    def observation(self) -> np.ndarray:
        """uint8 [E, stack * C, H, W], a copy."""
        e, _, c, h, w = self._frames.shape
        return self._frames.reshape(e, self.stack * c, h, w).copy()

    def reset(self, frames: np.ndarray) -> np.ndarray:
        """All environments begin an episode with `frames` uint8 [E, C, H, W]; returns the observation."""
        self._frames = np.zeros((len(frames), self.stack, *frames.shape[1:]), np.uint8)
        self._begin(np.ones(len(frames), bool), frames)
        return self.observation

    def push(self, steps: Steps) -> np.ndarray:
        """Take the newest frames; where an episode ended, those of the next one. Returns the observation to act on."""
        self._frames = np.roll(self._frames, -1, axis=1)
        self._frames[:, -1] = steps.frame
        self._begin(steps.last, steps.reset_frame)
        return self.observation

    def state(self) -> np.ndarray:
        """The stacked frames uint8 [E, stack, C, H, W], a copy."""
        return self._frames.copy()

    def set_state(self, frames: np.ndarray) -> None:
        """Continue from a `state`."""
        self._frames = np.array(frames, np.uint8)

    def _begin(self, where: np.ndarray, frames: np.ndarray) -> None:
        self._frames[where] = frames[where, None] if self.padding == "repeat" else 0
        self._frames[where, -1] = frames[where]
