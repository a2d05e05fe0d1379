"""Schedules of exploration written as text: a number, or a straight line `linear(start, end, steps)`.

The notation is that of DrQ-v2's settings, e.g. `linear(1.0,0.1,500000)` for the standard deviation of its noise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from plasticity_lightning.schedules import linear

__all__ = ["parse_schedule"]

_LINEAR = re.compile(r"^\s*linear\(\s*([^,]+?)\s*,\s*([^,]+?)\s*,\s*([^,]+?)\s*\)\s*$")


def parse_schedule(text: str | float) -> Callable[[float], float]:
    """Function step -> value.

    Args:
        text: a number at least 0, or `linear(start, end, steps)`: from `start` at step 0 to `end` at `steps`, then
            constant.

    Raises:
        ValueError: for any other text, a negative value, or less than one step.
    """
    told = f"schedule={text!r} must be a number or 'linear(start, end, steps)', e.g. 'linear(1.0, 0.1, 100000)'"
    match = _LINEAR.match(text) if isinstance(text, str) else None
    try:
        numbers = [float(number) for number in (match.groups() if match else [text])]
    except (TypeError, ValueError):
        raise ValueError(told) from None
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"{told}; its numbers must be finite and not negative")
    if match is None:
        return lambda step: numbers[0]
    initial, final, end = numbers
    if end < 1:
        raise ValueError(f"{told}; steps must be at least 1")
    return lambda step: linear(step, initial, final, 0, end)
