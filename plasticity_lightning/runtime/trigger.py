"""When to act: on a schedule, at given readings of a counter, or when a logged measure crosses a threshold.

The schedule is a `Clock`. A condition such as `plasticity/fau/critic < 0.2` reads `trainer.callback_metrics`, as
ModelCheckpoint does, and fires once when it becomes true: it fires again only after the value has gone back over the
threshold by `hysteresis` and `refractory` units have passed. All readings are state and belong into the checkpoint.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from plasticity_lightning.errors import nearest
from plasticity_lightning.runtime.clock import Clock, Unit
from plasticity_lightning.runtime.updates import begins_anew

__all__ = ["Condition", "Trigger", "parse_condition"]

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"^\s*(?P<metric>\S+)\s*(?P<comparison><=|>=|<|>)\s*(?P<threshold>\S+)\s*$")
_PATIENCE = 20  # checks without the metric before the user is told


class Condition(NamedTuple):
    """A comparison of one logged metric with a number: `metric comparison threshold`."""

    metric: str
    comparison: str
    threshold: float

    def holds(self, value: float) -> bool:
        """Whether `value` meets the condition; NaN never does."""
        return _COMPARISONS[self.comparison](value, self.threshold)

    def retreated(self, value: float, hysteresis: float) -> bool:
        """Whether `value` is on the other side of the threshold by at least `hysteresis`."""
        if self.comparison.startswith("<"):
            return value >= self.threshold + hysteresis and not self.holds(value)
        return value <= self.threshold - hysteresis and not self.holds(value)


def parse_condition(text: str) -> Condition:
    """Condition from `"<metric> <comparison> <number>"`, e.g. `"plasticity/fau/critic < 0.2"`.

    Raises:
        ValueError: for any other text, with what is allowed.
    """
    match = _CONDITION.match(text)
    allowed = f"'METRIC < NUMBER' with one of {' '.join(_COMPARISONS)}, e.g. 'plasticity/fau/critic < 0.2'"
    if match is None:
        raise ValueError(f"trigger={text!r} must be {allowed}")
    try:
        threshold = float(match["threshold"])
    except ValueError:
        raise ValueError(f"trigger={text!r}: {match['threshold']!r} is no number; it must be {allowed}") from None
    if not math.isfinite(threshold):
        raise ValueError(f"trigger={text!r}: the threshold must be finite; it must be {allowed}")
    return Condition(match["metric"], match["comparison"], threshold)


class Trigger:
    """Tells when an event is due, and why. Give exactly one of `every`, `at` and `trigger`.

    Args:
        every: fire whenever this many units have passed.
        at: fire at these readings, each at least 1.
        trigger: fire when this condition on a logged metric becomes true; see `parse_condition`. It is read every
            `trainer.log_every_n_steps` batches and at the end of epochs, which is when metrics appear. Under several
            processes rank 0 decides.
        unit: of `every`, `at` and `refractory`: batch, update, epoch or frame, see `Clock`.
        hysteresis: with `trigger`: distance from the threshold, at least 0, that the value must go back before the
            trigger is armed again.
        refractory: with `trigger`: units, at least 0, that must pass between two events.

    Raises:
        ValueError: if not exactly one of the three is given, or a value is out of range.
    """

    def __init__(
        self,
        every: int | None = None,
        at: Sequence[int] | None = None,
        trigger: str | None = None,
        unit: Unit = "update",
        hysteresis: float = 0.0,
        refractory: int = 0,
    ) -> None:
        given = {"every": every, "at": at, "trigger": trigger}
        if sum(value is not None for value in given.values()) != 1:
            told = ", ".join(f"{name}={value!r}" for name, value in given.items())
            raise ValueError(f"exactly one of every, at and trigger must be given, got {told}")
        if at is not None and (not at or min(at) < 1):
            raise ValueError(f"at={list(at)} must hold readings of at least 1")
        if hysteresis < 0 or refractory < 0:
            raise ValueError(f"hysteresis={hysteresis} and refractory={refractory} must not be negative")
        if trigger is None and (hysteresis or refractory):
            raise ValueError(
                f"hysteresis={hysteresis} and refractory={refractory} belong to a condition; give trigger='METRIC < NUMBER'"
            )
        self.clock = Clock(1 if every is None else every, unit)
        self.every = every
        self.at = None if at is None else sorted(at)
        self.condition = None if trigger is None else parse_condition(trigger)
        self.hysteresis, self.refractory = hysteresis, refractory
        self.armed = True
        self.last_event: int | None = None
        self._missed = 0

    def start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call it in `on_train_start`: it starts the clock, and a trigger of an earlier fit begins anew."""
        self.clock.start(trainer, pl_module)
        if begins_anew(trainer):
            self.armed, self.last_event, self._missed = True, None, 0

    def due(self, trainer: Trainer, pl_module: LightningModule, epoch_end: bool = False) -> str | None:
        """Why an event is due now, or None. Call it once at the end of each batch and of each epoch.

        Args:
            trainer: gives the counters and the metrics.
            pl_module: gives its own counts, see `HasProgress`.
            epoch_end: the call comes from the end of an epoch.
        """
        if self.condition is not None:
            if not self._metrics_appear(trainer, epoch_end):
                return None
            # without a refractory period no unit is asked for, and the module need not have it
            return self._crossing(trainer, self.clock.now(trainer, pl_module, epoch_end) if self.refractory else 0)
        before, now = self.clock.last, self.clock.now(trainer, pl_module, epoch_end)
        due = self.clock.crossed(now)
        if self.every is not None:
            return f"every {self.every} {self.clock.unit}s: {now}" if due else None
        assert self.at is not None
        passed = [reading for reading in self.at if before < reading <= now]
        return f"at {self.clock.unit} {passed[-1]}" if passed else None

    def _metrics_appear(self, trainer: Trainer, epoch_end: bool) -> bool:
        return epoch_end or (trainer.fit_loop.total_batch_idx + 1) % (trainer.log_every_n_steps or 1) == 0

    def _crossing(self, trainer: Trainer, now: int) -> str | None:
        assert self.condition is not None
        metrics = trainer.callback_metrics
        value = float(metrics[self.condition.metric]) if self.condition.metric in metrics else math.nan
        if trainer.world_size > 1:
            value = trainer.strategy.broadcast(value)
        if math.isnan(value):
            self._tell_if_absent(metrics)
            return None
        if not self.armed:
            self.armed = self.condition.retreated(value, self.hysteresis)
        resting = self.last_event is not None and now - self.last_event < self.refractory
        if not self.armed or resting or not self.condition.holds(value):
            return None
        self.armed, self.last_event = False, now
        return f"{self.condition.metric} = {value:.4g} {self.condition.comparison} {self.condition.threshold:g}"

    def _tell_if_absent(self, metrics: dict[str, torch.Tensor]) -> None:
        assert self.condition is not None
        if self.condition.metric in metrics:  # it is there and is NaN
            return
        self._missed += 1
        if self._missed == _PATIENCE:
            rank_zero_warn(
                f"trigger: {self.condition.metric!r} was in none of the last {_PATIENCE} readings of the logged metrics; "
                f"there are {sorted(metrics)}{nearest(self.condition.metric, metrics)} A monitor must stand before the "
                "intervention."
            )

    def state_dict(self) -> dict[str, Any]:
        """Reading, arming and time of the last event."""
        return {"clock": self.clock.state_dict(), "armed": self.armed, "last_event": self.last_event}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        self.clock.load_state_dict(state["clock"])
        self.armed, self.last_event = state["armed"], state["last_event"]
