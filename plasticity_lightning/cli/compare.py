"""`plasticity compare RUN...`: a table and a plot over runs, seeds of one configuration taken together.

Of a series over tasks (`task/...`) the table has the mean of the first and of the last tasks, of any other the last
value; each as mean ± sample standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from plasticity_lightning.errors import UserError, nearest

if TYPE_CHECKING:
    from plasticity_lightning.studies.run_logs import Group, Run

__all__ = ["compare"]

_FORMATS = (".png", ".svg", ".pdf")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `plasticity compare --help`")


def compare(args: list[str]) -> int:
    """Run the command and return the exit status.

    Args:
        args: arguments behind `compare`.

    Raises:
        UserError: for a mistake in the arguments or runs that cannot be compared.
    """
    parser = _parser()
    if args in (["-h"], ["--help"]):
        parser.print_help()
        return 0
    options = parser.parse_args(args)
    if options.tasks < 1:
        raise UserError(f"--tasks {options.tasks}: must be at least 1")
    if options.output is not None and options.output.suffix not in _FORMATS:
        raise UserError(f"--output {options.output}: the suffix must be one of {', '.join(_FORMATS)}")
    from rich.console import Console

    from plasticity_lightning.cli.tables import print_table
    from plasticity_lightning.studies.run_logs import group_runs  # numpy and TensorBoard

    groups = group_runs(options.runs)
    tags = _chosen_tags(groups, options.metrics)
    console = Console()
    for note in _notes(groups):
        console.print(f"note: {note}", markup=False, highlight=False)
    for table in _tables(groups, tags, options.tasks):
        print_table(table)
    if options.output is not None:
        _plot(groups, tags, options.output)
        print(f"plot: {options.output}")
    return 0


def _parser() -> _Parser:
    parser = _Parser(prog="plasticity compare", description=__doc__.partition("\n")[0], add_help=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="FOLDER or LABEL=FOLDER; runs are in it or below")
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="TAG",
        help="logged scalars, wildcards allowed; default: task/*, test/* and the measures of whole groups",
    )
    parser.add_argument("--tasks", type=int, default=5, metavar="K", help="first and last K tasks; default 5")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"write the plot to FILE ({', '.join(_FORMATS)})")
    parser.add_argument("-h", "--help", action="store_true", help="show this text")
    return parser


def _chosen_tags(groups: Sequence[Group], patterns: Sequence[str] | None) -> list[str]:
    """Tags that match, in the order of the patterns; those that every run has come with the default patterns only."""
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


def _notes(groups: Sequence[Group]) -> list[str]:
    """What would make the figures misleading."""
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


def _tables(groups: Sequence[Group], tags: Sequence[str], n_tasks: int) -> list[Any]:
    from rich.table import Table

    over_tasks = [tag for tag in tags if tag.startswith("task/")]
    tables = []
    if over_tasks:
        table = Table(title=f"mean over the first and the last {n_tasks} tasks, ± sd over seeds")
        table.add_column("run")
        table.add_column("seeds", justify="right")
        for tag in over_tasks:
            table.add_column(f"{tag[5:]}\nfirst", justify="right")
            table.add_column("\nlast", justify="right")
        for group in groups:
            cells = [
                _cell(group.runs, tag, part) for tag in over_tasks for part in (slice(n_tasks), slice(-n_tasks, None))
            ]
            table.add_row(group.label, str(len(group.runs)), *cells)
        tables.append(table)
    rest = [tag for tag in tags if tag not in over_tasks]
    if rest:
        table = Table(title="last value, ± sd over seeds")
        table.add_column("scalar")
        for group in groups:
            table.add_column(group.label, justify="right")
        for tag in rest:
            table.add_row(tag, *(_cell(group.runs, tag, slice(-1, None)) for group in groups))
        tables.append(table)
    return tables


def _cell(runs: Sequence[Run], tag: str, part: slice) -> str:
    import numpy as np

    values = np.array([run.scalars[tag].values[part].mean() for run in runs if tag in run.scalars])
    if not len(values):
        return "-"
    mean = f"{values.mean():.4g}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.2g}"


def _plot(groups: Sequence[Group], tags: Sequence[str], output: Path) -> None:
    from plasticity_lightning.viz.compare import Curve, comparison_figure

    panels = {
        tag: {
            group.label: [Curve(series.steps, series.values) for run in group.runs if (series := run.scalars.get(tag))]
            for group in groups
        }
        for tag in tags
    }
    figure = comparison_figure({tag: ("task" if tag.startswith("task/") else "batch", panels[tag]) for tag in tags})
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    figure.savefig(temporary, format=output.suffix[1:])
    temporary.replace(output)
