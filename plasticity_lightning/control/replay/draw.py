"""Which transitions does a batch hold? Uniform over transitions, or an episode first and then a transition of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from plasticity_lightning.control.replay.ring import FrameRing
from plasticity_lightning.errors import UserError

__all__ = ["ORDERS", "Order", "by_episode", "by_transition"]

Order = Literal["transition", "episode"]


def by_transition(ring: FrameRing, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Environments and slots int64 [n], with replacement, uniform over all transitions that may be drawn."""
    live = ring.count - ring.oldest
    if ring.size < live.sum() // 8:  # few of many: list them
        stream, place = np.nonzero(ring.window)
        chosen = generator.integers(0, len(place), n)
        stream, place = stream[chosen], place[chosen]
        newest = ring.count[stream] - 1
        return stream, newest - (newest - place) % ring.length
    ends = np.cumsum(live)
    found: list[np.ndarray] = []
    missing = n
    while missing:  # draw slots, keep those that begin a transition
        number = generator.integers(0, ends[-1], missing)
        stream = np.searchsorted(ends, number, side="right")
        slot = ring.count[stream] - (ends[stream] - number)
        drawable = ring.window[stream, slot % ring.length] > 0
        found.append(np.stack([stream[drawable], slot[drawable]]))
        missing -= int(drawable.sum())
    stream, slot = np.concatenate(found, axis=1)
    return stream, slot


def by_episode(ring: FrameRing, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """As `by_transition`, but a finished episode first, each with the same probability, then one of its transitions.

    Raises:
        UserError: if no finished episode holds a transition.
    """
    stream, first, last = ring.finished_episodes().T
    oldest = ring.oldest[stream]
    low = np.where(first >= oldest, first, oldest + ring.stack - 1)  # the stack must not reach what is overwritten
    high = last - (1 if ring.short else ring.n_step)
    drawable = low <= high
    if not drawable.any():
        raise UserError("order='episode' draws from finished episodes, and none with a transition is in the replay yet")
    stream, low, high = stream[drawable], low[drawable], high[drawable]
    episode = generator.integers(0, len(stream), n)
    return stream[episode], generator.integers(low[episode], high[episode] + 1)


ORDERS: dict[Order, Callable[[FrameRing, np.random.Generator, int], tuple[np.ndarray, np.ndarray]]] = {
    "transition": by_transition,
    "episode": by_episode,
}
