"""Environments that misbehave, for the tests of what happens then."""

import os
import sys

import numpy as np

from plasticity_lightning.control.environments import ContinuousActions, DiscreteActions, PixelEnvironment, Step
from plasticity_lightning.control.environments.reach import ReachEnvironment
from plasticity_lightning.errors import UserError


class Counter(PixelEnvironment):
    """Frames hold the number of steps since the beginning; terminates by a seeded coin."""

    def __init__(self, seed=0, failure="", after=3, termination=0.2, discrete=False):
        super().__init__("counter", (1, 2, 2), DiscreteActions(3) if discrete else ContinuousActions(1), 1, 7)
        self.failure, self.after, self.termination = failure, after, termination
        self._generator = np.random.default_rng(seed)
        self.total = self.elapsed = 0

    def render(self, height, width):
        return np.zeros((height, width, 3), np.uint8)

    def _reset(self):
        self.elapsed = 0
        return self._frame()

    def _step(self, action):
        self.total += 1
        self.elapsed += 1
        reward = float(action.sum())
        if self.total >= self.after:
            if self.failure == "nan":
                reward = float("nan")
            elif self.failure == "shape":
                return Step(np.zeros((1, 3, 3), np.uint8), 0.0, 1.0, False)
            elif self.failure == "raise":
                raise ZeroDivisionError("gone wrong")
            elif self.failure == "die":
                os._exit(3)
        end = self._generator.random() < self.termination
        return Step(self._frame(), reward, 0.0 if end else 1.0, bool(end) or self.elapsed == 7)

    def _state(self):
        return {"generator": self._generator.bit_generator.state, "total": self.total, "elapsed": self.elapsed}

    def _set_state(self, state):
        self._generator.bit_generator.state = state["generator"]
        self.total, self.elapsed = state["total"], state["elapsed"]

    def _frame(self):
        return np.full((1, 2, 2), self.total % 256, np.uint8)


class HasTorch(Counter):
    """Its reward says whether its process has loaded torch."""

    def _step(self, action):
        return super()._step(action)._replace(reward=float("torch" in sys.modules))


class Unsaved(ReachEnvironment):
    """Its state cannot be saved, as that of most environments of Gymnasium."""

    resumable = False

    def _state(self):
        raise UserError("reach cannot save its state")
