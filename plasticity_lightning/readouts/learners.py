"""All learners by name: the prediction object's rule and its foils, on the same input and the same trials.

They differ in their targets, in what gates them and in how they learn. A learner of your own is one more entry of
`LEARNERS`, or an import path.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, cast

from plasticity_lightning.errors import nearest
from plasticity_lightning.readouts.learner import Learner
from plasticity_lightning.readouts.online_learners import NormalisedLMS, ThreeFactorRule
from plasticity_lightning.readouts.supervised_learners import Force, Ridge, RLSLearner

__all__ = ["LEARNERS", "learner_named"]

LEARNERS: dict[str, type[Learner]] = {
    "three_factor": ThreeFactorRule,
    "lms": NormalisedLMS,
    "force": Force,
    "rls": RLSLearner,
    "ridge": Ridge,
}


def learner_named(rule: str, arguments: dict[str, Any] | None = None) -> Learner:
    """The learner `rule` of `LEARNERS`, or one of your own by its import path, with these arguments.

    Raises:
        ValueError: for an unknown rule or argument, with the nearest one, or a value out of range.
    """
    kind, arguments = _learner_class(rule), dict(arguments or {})
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in arguments:
        if name not in known:
            raise ValueError(
                f"rule_arguments: rule {rule!r} has no {name!r}, but {', '.join(known)}{nearest(name, known)}"
            )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()})


def _learner_class(rule: str) -> type[Learner]:
    if rule in LEARNERS:
        return LEARNERS[rule]
    module, _, name = rule.rpartition(".")
    if not module:
        raise ValueError(
            f"rule={rule!r} must be one of {', '.join(LEARNERS)}, or an import path{nearest(rule, LEARNERS)}"
        )
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"rule={rule!r} cannot be imported: {error}") from error
    if not is_dataclass(kind) or not all(
        hasattr(kind, part) for part in ("start", "learn", "reset", "product", "modulated")
    ):
        raise ValueError(
            f"rule={rule!r} must be a dataclass with start, learn, reset, product and modulated: see `readouts.learner.Learner`"
        )
    return cast(type[Learner], kind)
