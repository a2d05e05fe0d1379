"""How long do functions take, side by side? Each is timed in turn, again and again, so that a busy moment hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

__all__ = ["seconds_in_turn"]

_SLICE = 0.01  # seconds of one measurement


def seconds_in_turn(calls: Sequence[Callable[[], object]], seconds: float = 0.25) -> list[float]:
    """Least seconds of one call of each.

    Args:
        calls: called once before anything is timed.
        seconds: to spend on each of them, at least three measurements of some 10 ms.
    """
    repeats = []
    for call in calls:
        call()
        repeats.append(max(1, round(_SLICE / max(_once(call, 1), 1e-7))))
    rounds = max(3, round(seconds / _SLICE))
    times = [[_once(call, n) for call, n in zip(calls, repeats, strict=True)] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def _once(call: Callable[[], object], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - start) / n
