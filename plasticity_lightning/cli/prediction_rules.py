"""`plasticity prediction-rules LABEL=FOLDER ...`: rules on the prediction task in one table and one figure of their adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plasticity_lightning.cli.arguments import CommandParser
from plasticity_lightning.errors import UserError

if TYPE_CHECKING:
    from plasticity_lightning.studies.prediction_rules import RuleRun

__all__ = ["prediction_rules"]

_FORMATS = (".png", ".svg", ".pdf")


def prediction_rules(args: list[str]) -> int:
    """Run the command and return the exit status.

    Args:
        args: arguments behind `prediction-rules`.

    Raises:
        UserError: for a mistake in the arguments or folders without such runs.
    """
    parser = CommandParser(
        prog="plasticity prediction-rules", description=(__doc__ or "").partition("\n")[0], add_help=False
    )
    parser.add_argument("runs", nargs="+", metavar="LABEL=FOLDER", help="finished runs of prediction_object recipes")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"write the figure to FILE ({', '.join(_FORMATS)})")
    parser.add_argument("-h", "--help", action="store_true", help="show this text")
    if args in (["-h"], ["--help"]):
        parser.print_help()
        return 0
    options = parser.parse_args(args)
    if options.output is not None and options.output.suffix not in _FORMATS:
        raise UserError(f"--output {options.output}: the suffix must be one of {', '.join(_FORMATS)}")
    from plasticity_lightning.studies.prediction_rules import curves_by_change, read_rule_run  # torch

    runs = {}
    for argument in options.runs:
        label, equals, place = argument.rpartition("=")
        runs[label if equals else Path(place).name] = read_rule_run(Path(place))
    _print(runs)
    if options.output is not None:
        from plasticity_lightning.runtime.atomic_file import atomic_file
        from plasticity_lightning.viz import adaptation_curves

        panels = curves_by_change(runs)
        if not panels:
            raise UserError("--output: nothing changes in these runs, there are no curves to draw")
        with atomic_file(options.output) as file:
            adaptation_curves(panels).savefig(file, format=options.output.suffix[1:])
        print(f"figure: {options.output}")
    return 0


def _print(runs: dict[str, RuleRun]) -> None:
    from rich.table import Table

    from plasticity_lightning.cli.tables import print_table
    from plasticity_lightning.studies.prediction_rules import COLUMNS

    table = Table(title="mean ± sd over lanes; trials to adapt: median (range), 5 is the least there can be")
    table.add_column("rule")
    table.add_column("lanes", justify="right")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for label, run in runs.items():
        cells = []
        for name in COLUMNS:
            value = run.scores[name]
            if name.startswith("trials_to"):
                low, middle, high = (_trials(float(v)) for v in (value.min(), value.nanmedian(), value.max()))
                cells.append(middle if low == high else f"{middle} ({low}-{high})")
            else:
                spread = f" ± {float(value.std()):.2g}" if len(value) > 1 else ""
                cells.append(f"{float(value.nanmean()):.3g}{spread}")
        table.add_row(label, str(run.n_lanes), *cells)
    print_table(table)


def _trials(value: float) -> str:
    return "-" if value != value else "never" if value == float("inf") else f"{value:.0f}"
