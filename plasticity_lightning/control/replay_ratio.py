"""When to learn more from each step: the decision rule of adaptive replay ratio.

A low replay ratio keeps the critic plastic while little is known; once its plasticity has recovered, a higher one uses
the data better. The rule watches one measure (the critic's fraction of active units, FAU), averages its readings over a
window, and moves along a ladder of ratios when the change between two checks meets a condition. It is a state machine
of numbers: no tensors, no Trainer.

Source: Ma et al. 2024, "Revisiting Plasticity in Visual Reinforcement Learning", section 5, and its published code.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from plasticity_lightning.control.update_credit import exact_ratio
from plasticity_lightning.errors import nearest

__all__ = ["PRESETS", "AverageOver", "Decision", "FirstReference", "PresetName", "RatioRule", "RatioState", "make_rule"]

AverageOver = Literal["window", "last"]
FirstReference = Literal["first_window", "first_reading"]
PresetName = Literal["paper", "published_code"]

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_QUANTITIES: dict[str, Callable[[float, float], float]] = {
    "value": lambda phi, before: phi,
    "change": lambda phi, before: abs(phi - before),
    "rise": lambda phi, before: phi - before,
    "fall": lambda phi, before: before - phi,
}
_CONDITION = re.compile(r"^\s*(\S+)\s*(<=|>=|<|>)\s*(\S+)\s*$")


class Decision(NamedTuple):
    """What a check decided: the ratio from now on, whether it moved, the window's mean, and why."""

    replay_ratio: float
    moved: bool
    measure: float
    reason: str


@dataclass(frozen=True)
class RatioRule:
    """The rule; its defaults are the paper's.

    Args:
        ladder: replay ratios, rising; the first one is where training starts.
        check_every: units (episodes in the paper) between checks, at least 1.
        raise_when: condition for one rung up: `value`, `change` (absolute, since the check before), `rise` or `fall`,
            a comparison and a number. None never goes up.
        lower_when: condition for one rung down; None never goes down.
        patience: consecutive checks at which a condition must hold, at least 1.
        hysteresis: what a condition's threshold must be exceeded by, if it would take back the last move; at least 0.
        cooldown: checks after a move at which nothing moves, at least 0.
        average_over: phi is the mean over the whole `window` between two checks, or over its `last` unit (the last
            episode), as in the published code.
        first_reference: what the first check compares with: the mean of the `first_window`, so that it only records, or
            the `first_reading` of all, as in the published code.

    Raises:
        ValueError: if a value is out of range.
    """

    ladder: tuple[float, ...] = (0.5, 2.0)
    check_every: int = 50
    raise_when: str | None = "change <= 0.001"
    lower_when: str | None = None
    patience: int = 1
    hysteresis: float = 0.0
    cooldown: int = 0
    average_over: AverageOver = "window"
    first_reference: FirstReference = "first_window"

    def __post_init__(self) -> None:
        if len(self.ladder) < 2 or sorted(set(self.ladder)) != list(self.ladder):
            raise ValueError(f"ladder={list(self.ladder)} must hold at least two ratios that rise")
        for ratio in self.ladder:
            exact_ratio(ratio)
        for name, least in (("check_every", 1), ("patience", 1), ("hysteresis", 0), ("cooldown", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.raise_when is None and self.lower_when is None:
            raise ValueError("raise_when and lower_when are both None: the ratio would never move")
        for name in ("raise_when", "lower_when"):
            if getattr(self, name) is not None:
                _parse(name, getattr(self, name))
        for name, allowed in (("average_over", get_args(AverageOver)), ("first_reference", get_args(FirstReference))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")


PRESETS: dict[PresetName, dict[str, Any]] = {
    "paper": {},
    "published_code": {"average_over": "last", "first_reference": "first_reading"},
}


def make_rule(preset: PresetName = "paper", **options: Any) -> RatioRule:
    """The preset's rule with those options that are not None in place of its own.

    Raises:
        ValueError: for an unknown preset or an option out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} must be one of {', '.join(PRESETS)}{nearest(str(preset), PRESETS)}")
    given = {name: value for name, value in options.items() if value is not None}
    if "ladder" in given:
        given["ladder"] = tuple(given["ladder"])
    return replace(RatioRule(**PRESETS[preset]), **given)


@dataclass
class RatioState:
    """Where the rule stands. `read` takes readings of the measure, `unit_over` tells that a unit ended and may decide.

    Args:
        rule: what to do.

    Attributes:
        rung: position on the ladder, from 0.
        reference: the mean at the last check; None before there is one.
    """

    rule: RatioRule
    rung: int = 0
    reference: float | None = None
    units: int = 0
    total: float = 0.0
    weight: float = 0.0
    held: dict[str, int] = field(default_factory=lambda: {"raise": 0, "lower": 0})
    last_move: int = 0
    rest: int = 0

    @property
    def replay_ratio(self) -> float:
        """The ratio of the present rung."""
        return self.rule.ladder[self.rung]

    def read(self, value: float, weight: float = 1.0) -> None:
        """Enter a reading that stands for `weight` updates; NaN is none."""
        if math.isnan(value) or weight <= 0:
            return
        if self.reference is None and self.rule.first_reference == "first_reading":
            self.reference = value
        self.total += value * weight
        self.weight += weight

    def unit_over(self, units: int) -> Decision | None:
        """Note that so many units are over, counted from the start, and check if a check is due.

        A counter may jump; a check is due when it passes a multiple of `check_every`.

        Returns:
            The decision of a check, None if none was due or there was no reading to judge by.
        """
        every, before = self.rule.check_every, self.units
        self.units = units
        if units // every == before // every:
            # the readings before the last unit of a window are forgotten; with windows of one unit there are none
            if self.rule.average_over == "last" and units != before and (units + 1) % every == 0:
                self._clear()
            return None
        if not self.weight:
            return None
        phi = self.total / self.weight
        self._clear()
        decision = self._decide(phi)
        self.reference = phi
        return decision

    def state_dict(self) -> dict[str, Any]:
        """Everything but the rule."""
        return {name: value for name, value in vars(self).items() if name != "rule"} | {"held": dict(self.held)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off.

        Raises:
            ValueError: if the ladder has no such rung.
        """
        if state["rung"] >= len(self.rule.ladder):
            raise ValueError(
                f"ladder={list(self.rule.ladder)} has no rung {state['rung']}, where the checkpoint stands"
            )
        for name, value in state.items():
            setattr(self, name, dict(value) if name == "held" else value)

    def _clear(self) -> None:
        self.total = self.weight = 0.0

    def _decide(self, phi: float) -> Decision:
        if self.reference is None:
            return Decision(self.replay_ratio, False, phi, f"first check: mean {phi:.5g} is the reference")
        told = f"mean {phi:.5g}, before {self.reference:.5g}, change {abs(phi - self.reference):.5g}"
        if self.rest > 0:
            self.rest -= 1
            self.held = dict.fromkeys(self.held, 0)
            return Decision(self.replay_ratio, False, phi, f"{told}; at rest after a move")
        for direction, step, text in (("raise", 1, self.rule.raise_when), ("lower", -1, self.rule.lower_when)):
            if text is None:
                continue
            holds = _holds(text, phi, self.reference, self.rule.hysteresis if step == -self.last_move else 0.0)
            self.held[direction] = self.held[direction] + 1 if holds else 0
            if self.held[direction] >= self.rule.patience and 0 <= self.rung + step < len(self.rule.ladder):
                old = self.replay_ratio
                self.rung, self.last_move, self.rest = self.rung + step, step, self.rule.cooldown
                self.held = dict.fromkeys(self.held, 0)
                reason = f"{told}: {direction}_when {text!r} held, {old:g} -> {self.replay_ratio:g}"
                return Decision(self.replay_ratio, True, phi, reason)
        return Decision(self.replay_ratio, False, phi, f"{told}; stays at {self.replay_ratio:g}")


def _parse(name: str, text: str) -> tuple[str, str, float]:
    told = (
        f"{name}={text!r} must be a quantity ({', '.join(_QUANTITIES)}), a comparison and a number: 'change <= 0.001'"
    )
    match = _CONDITION.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(told)
    quantity, comparison, number = match.groups()
    if quantity not in _QUANTITIES:
        raise ValueError(f"{told}; {quantity!r} is none of them{nearest(quantity, _QUANTITIES)}")
    try:
        threshold = float(number)
    except ValueError:
        raise ValueError(f"{told}; {number!r} is no number") from None
    if not math.isfinite(threshold):
        raise ValueError(f"{told}; the number must be finite")
    return quantity, comparison, threshold


def _holds(text: str, phi: float, reference: float, margin: float) -> bool:
    quantity, comparison, threshold = _parse("condition", text)
    threshold += margin if comparison.startswith(">") else -margin
    return _COMPARISONS[comparison](_QUANTITIES[quantity](phi, reference), threshold)
