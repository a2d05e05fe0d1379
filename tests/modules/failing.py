"""A pixel environment that fails after some steps, for the tests of what a run keeps then."""

from typing import Any

import numpy as np

from plasticity_lightning.control.environments import ReachEnvironment, Step

__all__ = ["FailingReach"]


class FailingReach(ReachEnvironment):
    """`reach` whose n-th step returns NaN or raises."""

    def __init__(self, seed: int = 0, failure: str = "", after: int = 1, **options: Any) -> None:
        super().__init__(seed, episode_steps=10, **options)
        self.failure, self.after, self.total = failure, after, 0

    def _step(self, action: np.ndarray) -> Step:
        self.total += 1
        if self.total >= self.after and self.failure == "raise":
            raise ZeroDivisionError("gone wrong")
        step = super()._step(action)
        return step._replace(reward=float("nan")) if self.total >= self.after and self.failure == "nan" else step
