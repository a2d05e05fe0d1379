"""How many updates are due: an exact account of replay ratio times environment steps.

A replay ratio of 0.3 owes three updates in ten steps, whatever the order, and an account in floating point would
sooner or later owe one less; so it is kept as a fraction.
"""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["UpdateCredit", "exact_ratio"]


def exact_ratio(replay_ratio: float) -> Fraction:
    """The fraction that a person means by a decimal number: 0.1 is 1/10.

    Raises:
        ValueError: if it is not a positive, finite number.
    """
    if isinstance(replay_ratio, bool) or not isinstance(replay_ratio, int | float):
        raise ValueError(f"replay_ratio={replay_ratio!r} must be a positive number, in updates per environment step")
    if not math.isfinite(replay_ratio) or replay_ratio <= 0:
        raise ValueError(f"replay_ratio={replay_ratio} must be positive and finite, in updates per environment step")
    return Fraction(repr(replay_ratio))


class UpdateCredit:
    """Steps add their share, whole updates are taken.

    The first step that counts makes an update even at a ratio below 1, and then every (1 / ratio)-th, as in DrQ-v2's
    code: 0.5 means steps 0, 2, 4, ...

    Args:
        replay_ratio: updates per environment step, positive.

    Raises:
        ValueError: if the ratio is out of range.
    """

    def __init__(self, replay_ratio: float) -> None:
        self.ratio = exact_ratio(replay_ratio)
        self.owed = max(Fraction(0), 1 - self.ratio)

    @property
    def replay_ratio(self) -> float:
        """Updates per environment step. A change counts from the next step on; what is owed stays."""
        return float(self.ratio)

    @replay_ratio.setter
    def replay_ratio(self, value: float) -> None:
        self.ratio = exact_ratio(value)

    def take(self, steps: int) -> int:
        """Enter so many environment steps and take the updates that are due."""
        self.owed += self.ratio * steps
        due = int(self.owed)
        self.owed -= due
        return due

    def state_dict(self) -> dict[str, tuple[int, int]]:
        """Ratio and what is owed, as (numerator, denominator)."""
        return {name: getattr(self, name).as_integer_ratio() for name in ("ratio", "owed")}

    def load_state_dict(self, state: dict[str, tuple[int, int]]) -> None:
        """Take up where `state_dict` left off."""
        self.ratio, self.owed = Fraction(*state["ratio"]), Fraction(*state["owed"])
