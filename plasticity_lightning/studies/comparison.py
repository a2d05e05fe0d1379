"""Runs compared: which scalars, their means and spread over seeds, and what would make the figures misleading.

A series over tasks (`task/...`) is summed up by the means over its first and its last tasks, any other by its last value; over the runs of a group,
which differ in seeds alone, the mean and the sample standard deviation are given.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plasticity_lightning.errors import UserError, nearest
from plasticity_lightning.studies.run_logs import Group, Run

__all__ = ["Summary", "chosen_tags", "misleading", "over_seeds", "over_tasks"]


@dataclass(frozen=True)
class Summary:
    """Mean over `n` runs and their sample standard deviation, None for a single run."""

    mean: float
    deviation: float | None
    n: int


def over_tasks(tag: str) -> bool:
    """Whether a scalar has one value a task, so that its first and last ones are worth a comparison."""
    return tag.startswith("task/")


def over_seeds(runs: Sequence[Run], tag: str, part: slice) -> Summary | None:
    """Each run's mean of `tag` over the values in `part`, summed up over the runs that logged it; None if none did.

    Args:
        runs: runs that differ in seeds alone.
        tag: name of the scalar.
        part: of its values in order, such as `slice(-1, None)` for the last one.
    """
    values = np.array([run.scalars[tag].values[part].mean() for run in runs if tag in run.scalars])
    if not len(values):
        return None
    return Summary(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


def chosen_tags(groups: Sequence[Group], patterns: Sequence[str] | None) -> list[str]:
    """Names of the scalars to compare.

    Args:
        groups: what is compared.
        patterns: names with wildcards; None takes the tasks' and the test's scores and the measures of whole groups.

    Raises:
        UserError: if a pattern matches nothing that any run logged, or there is nothing to take.
    """
    every = sorted({tag for group in groups for run in group.runs for tag in run.scalars})
    if patterns is None:
        wanted = [tag for tag in every if tag.startswith(("task/", "test/")) and tag != "task/index"]
        wanted += [tag for tag in every if tag.startswith("plasticity/") and tag.count("/") == 2]
        if not wanted:
            raise UserError(f"no task/*, test/* or plasticity/* scalars; choose by --metrics among: {', '.join(every)}")
        return wanted
    chosen: list[str] = []
    for pattern in patterns:
        found = [tag for tag in every if fnmatch.fnmatchcase(tag, pattern) and tag not in chosen]
        if not found and pattern not in chosen:
            raise UserError(
                f"--metrics {pattern}: no run logs it; there are: {', '.join(every)}{nearest(pattern, every)}"
            )
        chosen += found
    return chosen


def misleading(groups: Sequence[Group]) -> list[str]:
    """Sentences on what would make a comparison misleading: repeated seeds, runs or groups of different length."""
    notes = []
    for group in groups:
        seeds = [run.seeds for run in group.runs if run.config is not None]
        if len(set(seeds)) < len(seeds):
            notes.append(f"{group.label}: some of its {len(group.runs)} runs have the same seeds")
        ends = [int(run.scalars["task/index"].steps[-1]) for run in group.runs if "task/index" in run.scalars]
        if len(set(ends)) > 1:
            notes.append(f"{group.label}: its runs end at different tasks: {', '.join(map(str, ends))}")
    ends_by_group = {
        group.label: max(int(run.scalars["task/index"].steps[-1]) for run in group.runs)
        for group in groups
        if all("task/index" in run.scalars for run in group.runs)
    }
    if len(set(ends_by_group.values())) > 1:
        notes.append("last tasks differ: " + ", ".join(f"{label} {end}" for label, end in ends_by_group.items()))
    return notes
