"""When does what happen? A method resolved to optimiser steps: pure functions of the step number.

Events are the multiples of `every`. As in GraNet's code, event k prunes to the schedule's sparsity at k, between
k0 = floor(start / every) and k1 = floor(end / every); the prune rate follows the step.

Source: Liu et al. 2021 (GraNet), section 3 and its published code.
"""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_lightning.schedules import SCHEDULES
from plasticity_lightning.sparsity.methods import Method, Moment, parse_moment

__all__ = ["Plan", "resolve"]


@dataclass(frozen=True)
class Plan:
    """A method with its phases in steps.

    Attributes:
        method: what is done.
        prune_start: in steps, as the following ones.
        prune_end: not before `prune_start`.
        regrow_start: first step of regeneration and of its rate's schedule.
        regrow_end: first step without it.
    """

    method: Method
    prune_start: int = 0
    prune_end: int = 0
    regrow_start: int = 0
    regrow_end: int = 0

    def due(self, step: int) -> bool:
        """Whether the masks change after optimiser step number `step` (the first is 1)."""
        return self.density(step) is not None or self.rate(step) is not None

    def density(self, step: int) -> float | None:
        """Target density of gradual pruning after this step; None if it does not prune."""
        method = self.method
        if method.prune == "none" or step % method.every or not self.prune_start <= step:
            return None
        event = step // method.every
        first, last = self.prune_start // method.every, self.prune_end // method.every
        # the published code stops global pruning one event early, but not the layer-wise variants
        short = not method.reach_final and method.prune == "global"
        if not first <= event <= last - short:
            return None
        schedule = SCHEDULES[method.prune_schedule]
        return 1 - schedule(event, method.start_sparsity, method.sparsity, first, last)

    def rate(self, step: int) -> float | None:
        """Share of weights that regeneration replaces after this step; None if it does not regenerate."""
        method = self.method
        # half-open: what would grow after the last step of training would never be trained
        if not method.regenerates or step % method.every or not self.regrow_start <= step < self.regrow_end:
            return None
        return self.prune_rate(step)

    def prune_rate(self, step: int) -> float:
        """The rate's schedule at any step."""
        method = self.method
        schedule = SCHEDULES[method.prune_rate_schedule]
        return schedule(step, method.prune_rate, method.prune_rate_final, self.regrow_start, self.regrow_end)


def resolve(method: Method, total_steps: int | None, steps_per_epoch: int | None) -> Plan:
    """The method's phases in steps.

    Args:
        method: what is done.
        total_steps: of the optimiser in the whole training; None if unknown or infinite.
        steps_per_epoch: of the optimiser; None if unknown.

    Raises:
        ValueError: if a phase is given in a unit that is unknown here, ends before it starts, or no update fits in.
    """

    def steps(value: Moment, name: str) -> int:
        number, unit = parse_moment(value, name)
        if unit == "steps":
            return int(number)
        scale = total_steps if unit == "fraction" else steps_per_epoch
        if scale is None:
            raise ValueError(
                f"{name}={value!r} is relative to a training whose length is unknown or infinite. "
                f"Set total_steps, max_epochs or max_steps, or give {name} as '1000 steps'"
            )
        return int(number * scale)

    phases: dict[str, int] = {}
    if method.prune != "none":
        phases |= {name: steps(getattr(method, name), name) for name in ("prune_start", "prune_end")}
        first, last = phases["prune_start"] // method.every, phases["prune_end"] // method.every
        if last <= first:
            raise ValueError(
                f"gradual pruning from step {phases['prune_start']} to {phases['prune_end']} holds no update with "
                f"every={method.every}; make every smaller or the phase longer"
            )
        if total_steps is not None and last * method.every > total_steps:
            raise ValueError(
                f"the last pruning event is at step {last * method.every}, training ends at {total_steps}: "
                f"sparsity={method.sparsity} would not be reached; make prune_end or every smaller"
            )
    if method.regenerates:
        phases |= {name: steps(getattr(method, name), name) for name in ("regrow_start", "regrow_end")}
        if phases["regrow_end"] <= max(method.every, phases["regrow_start"]):
            raise ValueError(
                f"regeneration from step {phases['regrow_start']} to {phases['regrow_end']} holds no update with "
                f"every={method.every}; make every smaller or the phase longer"
            )
    return Plan(method, **phases)
