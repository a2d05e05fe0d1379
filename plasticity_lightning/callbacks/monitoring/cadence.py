"""When is which measure due? An interval for each, in batches, with defaults from the measure's cost.

A measure is due at the first batch, as a baseline, and at every multiple of its interval; a due measure that the batch
could not serve (no optimiser step under gradient accumulation, no forward pass in a tick of reinforcement learning)
stays pending until one does. All of it depends on the number of the batch alone, so that it is the same on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping

from plasticity_lightning.measures.registry import Cost, Measure

__all__ = ["INTERVALS", "Cadence"]

# chosen so that a due batch that costs half a step more (cheap), several steps (moderate) or a hundred (expensive)
# adds less than 1 % on average
INTERVALS: dict[Cost, int] = {"cheap": 100, "moderate": 1000, "expensive": 20000}


class Cadence:
    """Intervals of the chosen measures.

    Args:
        measures: name -> entry.
        every: one interval in batches for all measures, or one for each; measures that are not named keep the default
            of their cost.

    Raises:
        ValueError: if an interval is below 1 or a name is not among `measures`.
    """

    def __init__(self, measures: Mapping[str, Measure], every: int | Mapping[str, int] | None = None) -> None:
        given = dict.fromkeys(measures, every) if isinstance(every, int) else dict(every or {})
        unknown = sorted(set(given) - set(measures))
        if unknown:
            raise ValueError(f"every={dict(given)} names {unknown}, which are not measured; measures: {list(measures)}")
        self.every = {name: given.get(name, INTERVALS[measure.cost]) for name, measure in measures.items()}
        wrong = {name: value for name, value in self.every.items() if value < 1}
        if wrong:
            raise ValueError(f"every: intervals must be at least 1 batch, got {wrong}")
        self.reset()

    def reset(self) -> None:
        """Begin anew: batches are counted from 1 again."""
        self.pending: set[str] = set()
        self._next = self._last = 0

    def update(self, batch: int) -> set[str]:
        """Pending measures at the start of `batch` (1 is the first of the run)."""
        if batch >= self._next or batch < self._last:  # a count that went back belongs to another fit
            self.pending |= {name for name, every in self.every.items() if batch == 1 or batch % every == 0}
            self._next = min(((batch // every + 1) * every for every in self.every.values()), default=batch + 1)
        self._last = batch
        return self.pending

    def state_dict(self) -> list[str]:
        """The pending measures."""
        return sorted(self.pending)

    def load_state_dict(self, state: list[str]) -> None:
        """Take them up again; measures that are no longer chosen are forgotten."""
        self.pending = set(state) & set(self.every)
        self._next = self._last = 0
