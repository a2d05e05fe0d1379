"""`plasticity compare RUN...`: a table and a plot over runs, seeds of one configuration taken together.

Parsing and printing; what is compared and how is the business of `studies.comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity_lightning.cli.arguments import CommandParser
from plasticity_lightning.errors import UserError

if TYPE_CHECKING:
    from plasticity_lightning.studies.run_logs import Group, Run

__all__ = ["compare"]

_FORMATS = (".png", ".svg", ".pdf")


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
    from plasticity_lightning.studies.comparison import chosen_tags, misleading  # numpy
    from plasticity_lightning.studies.run_logs import group_runs  # TensorBoard

    groups = group_runs(options.runs)
    tags = chosen_tags(groups, options.metrics)
    console = Console()
    for note in misleading(groups):
        console.print(f"note: {note}", markup=False, highlight=False)
    for table in _tables(groups, tags, options.tasks):
        print_table(table)
    if options.output is not None:
        _plot(groups, tags, options.output)
        print(f"plot: {options.output}")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="plasticity compare", description=__doc__.partition("\n")[0], add_help=False)
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


def _tables(groups: Sequence[Group], tags: Sequence[str], n_tasks: int) -> list[Any]:
    from rich.table import Table

    from plasticity_lightning.studies.comparison import over_tasks

    by_task = [tag for tag in tags if over_tasks(tag)]
    tables = []
    if by_task:
        table = Table(title=f"mean over the first and the last {n_tasks} tasks, ± sd over seeds")
        table.add_column("run")
        table.add_column("seeds", justify="right")
        for tag in by_task:
            table.add_column(f"{tag[5:]}\nfirst", justify="right")
            table.add_column("\nlast", justify="right")
        for group in groups:
            cells = [
                _cell(group.runs, tag, part) for tag in by_task for part in (slice(n_tasks), slice(-n_tasks, None))
            ]
            table.add_row(group.label, str(len(group.runs)), *cells)
        tables.append(table)
    rest = [tag for tag in tags if tag not in by_task]
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
    from plasticity_lightning.studies.comparison import over_seeds

    summary = over_seeds(runs, tag, part)
    if summary is None:
        return "-"
    spread = "" if summary.deviation is None else f" ± {summary.deviation:.2g}"
    return f"{summary.mean:.4g}{spread}"


def _plot(groups: Sequence[Group], tags: Sequence[str], output: Path) -> None:
    from plasticity_lightning.runtime.atomic_file import atomic_file  # torch
    from plasticity_lightning.studies.comparison import over_tasks
    from plasticity_lightning.viz.compare import Curve, comparison_figure

    panels = {
        tag: {
            group.label: [Curve(series.steps, series.values) for run in group.runs if (series := run.scalars.get(tag))]
            for group in groups
        }
        for tag in tags
    }
    figure = comparison_figure({tag: ("task" if over_tasks(tag) else "batch", panels[tag]) for tag in tags})
    with atomic_file(output) as file:
        figure.savefig(file, format=output.suffix[1:])
