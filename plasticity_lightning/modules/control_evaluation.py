"""Episodes that an agent plays to be evaluated: on environments of their own, with its best actions, nothing stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plasticity_lightning.control.environments.collector import Collector
from plasticity_lightning.control.environments.frame_stack import FrameStack
from plasticity_lightning.modules.control_options import EnvironmentOptions

__all__ = ["Episode", "EvaluationEpisodes"]


class Episode(NamedTuple):
    """An episode played with the agent's best actions: sum of rewards, steps, actions [T, ...], rewards [T]."""

    score: float
    steps: int
    actions: Tensor
    rewards: Tensor


class EvaluationEpisodes:
    """One environment, played episode after episode.

    Args:
        options: which environment; its form for evaluation is taken.
        seed: of its starts.

    Attributes:
        scenes: pictures uint8 [T, H, W, 3] of the first episode that was asked for them, else None.
    """

    def __init__(self, options: EnvironmentOptions, seed: int) -> None:
        self._options = options
        self._collector = Collector(options.spec.for_evaluation(), [seed], options.mode)
        self._frames = self._collector.reset()
        self.scenes: Tensor | None = None

    def play(self, act: Callable[[np.ndarray], np.ndarray], scenes: int = 0) -> Episode:
        """One episode.

        Args:
            act: actions for observations uint8 [1, C, H, W].
            scenes: side in pixels of pictures to keep, if none are kept yet; 0 keeps none.
        """
        stack = FrameStack(self._options.stack, self._options.padding)
        observation = stack.reset(self._frames)
        pictures: list[np.ndarray] | None = [] if scenes and self.scenes is None else None
        actions, rewards = [], []
        while True:
            if pictures is not None:
                pictures.append(self._collector.render(scenes, scenes)[0])
            self._collector.submit(act(observation))
            steps = self._collector.result()
            actions.append(torch.as_tensor(steps.action[0].copy()))
            rewards.append(float(steps.reward[0]))
            if steps.last[0]:
                break
            observation = stack.push(steps)
        self._frames = steps.reset_frame
        if pictures is not None:
            self.scenes = torch.from_numpy(np.stack(pictures))
        return Episode(sum(rewards), len(rewards), torch.stack(actions), torch.tensor(rewards))

    def close(self) -> None:
        """End the environment."""
        self._collector.close()
