"""Schedules as pure functions: step -> value.

`constant`, `linear`, `cosine` and `cubic` share one signature, so that an option can name any of them: the value is
`initial` up to `start`, `final` from `end` on. Steps may be anything that counts (optimiser steps, events, epochs).

Sources: Zhu & Gupta 2017 (cubic sparsity), Dettmers & Zettlemoyer 2019 and Evci et al. 2020 (cosine prune rate).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

__all__ = ["SCHEDULES", "ScheduleName", "constant", "cosine", "cubic", "linear", "piecewise"]

ScheduleName = Literal["constant", "linear", "cosine", "cubic"]


def constant(step: float, initial: float, final: float | None = None, start: float = 0, end: float = 1) -> float:
    """`initial` at every step; the other arguments only let it stand in for the others."""
    return initial


def linear(step: float, initial: float, final: float, start: float = 0, end: float = 1) -> float:
    """Straight line from `initial` at `start` to `final` at `end`.

    Args:
        step: now.
        initial: value up to `start`.
        final: value from `end` on.
        start: first step of the change.
        end: last step of the change; not before `start`. If both agree, the value jumps there.

    Raises:
        ValueError: if `end` < `start`.
    """
    return _blend(initial, final, _progress(step, start, end))


def cosine(step: float, initial: float, final: float, start: float = 0, end: float = 1) -> float:
    """Half a cosine from `initial` at `start` to `final` at `end`; arguments and errors as `linear`."""
    return _blend(initial, final, 0.5 * (1 - math.cos(math.pi * _progress(step, start, end))))


def cubic(step: float, initial: float, final: float, start: float = 0, end: float = 1) -> float:
    """Fast first, slow at the end: final + (initial - final) (1 - x)^3, x in [0, 1]; arguments and errors as `linear`."""
    return _blend(initial, final, 1 - (1 - _progress(step, start, end)) ** 3)


def piecewise(step: float, values: Sequence[float], boundaries: Sequence[float]) -> float:
    """The i-th value from the i-th boundary on: `values[0]` before `boundaries[0]`, then `values[1]`, and so on.

    Raises:
        ValueError: if there is not exactly one value more than boundaries, or the boundaries do not rise.
    """
    if len(values) != len(boundaries) + 1:
        raise ValueError(f"{len(boundaries)} boundaries need {len(boundaries) + 1} values, got {len(values)}")
    if any(late <= early for early, late in pairwise(boundaries)):
        raise ValueError(f"boundaries must rise, got {list(boundaries)}")
    return values[bisect_right(boundaries, step)]


SCHEDULES: dict[ScheduleName, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cubic": cubic,
}


def _progress(step: float, start: float, end: float) -> float:
    if end < start:
        raise ValueError(f"a schedule must not end before it starts; start={start}, end={end}")
    if step >= end:
        return 1.0
    return 0.0 if step <= start else (step - start) / (end - start)


def _blend(initial: float, final: float, progress: float) -> float:
    # the ends exactly: final sparsity must not miss its count of weights by one rounding error
    if progress == 1:
        return final
    return initial + (final - initial) * progress
