"""One table at the start of a run: what the callbacks act on in this module, what they leave out, and why.

Every Callback that offers `HasCoverage` asks for the table at `setup`; it is printed once, on rank 0, at the end of the
first training batch that has made an optimiser step, when all has been seen that only a running network shows
(functional activations, the layers that consume a unit). Parts that fare alike stand in one line. The callbacks of
`runtime` have no rows: they act on the run, never on a part of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from plasticity_lightning.protocols import CoverageRow, HasCoverage
from plasticity_lightning.runtime.updates import UpdateCount, optimizers_that_step

__all__ = ["CoverageSummary", "announce_coverage", "coverage_rows", "coverage_table"]

_SHOWN = 3  # names a line, without `full`


class CoverageSummary(Callback):
    """Prints the table of coverage. It is added by itself where a callback offers rows; list it to change how.

    Args:
        quiet: print nothing.
        full: name every parameter and layer instead of the first few of each line.
    """

    def __init__(self, quiet: bool = False, full: bool = False) -> None:
        self.quiet, self.full = quiet, full
        self._printed = False
        self._only_once = False
        self._count = UpdateCount()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every fit prints anew."""
        self._printed = self.quiet
        if not self.quiet:
            self._count.start(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print after the first batch with a step: one of reinforcement learning may only have acted."""
        if not self._printed and (self._count.stepped() or not optimizers_that_step(trainer)):
            self._print(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print at the end of a fit that never stepped."""
        if not self._printed:
            self._print(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Count no more: Lightning calls no further hook."""
        self._count.stop()

    def _print(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._printed = True
        self._count.stop()
        self.show(trainer, pl_module)
        if self._only_once:
            # even an idle callback costs microseconds a batch; a new list, for the Trainer is on its way through the old one
            trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]

    def show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, on rank 0, if there are rows."""
        rows = coverage_rows(trainer, pl_module) if trainer.is_global_zero else []
        if rows:
            Console().print(coverage_table(rows, self.full))


def announce_coverage(trainer: Trainer) -> None:
    """Have the table printed in this fit; any number of callbacks may ask for it. Call it in `setup`."""
    callbacks: list[Callback] = trainer.callbacks
    if not any(isinstance(callback, CoverageSummary) for callback in callbacks):
        summary = CoverageSummary()
        summary._only_once = True
        callbacks.append(summary)


def coverage_rows(trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
    """Rows of all callbacks of the Trainer that offer them, in the order of the callbacks."""
    callbacks: list[Callback] = trainer.callbacks
    return [row for c in callbacks if isinstance(c, HasCoverage) for row in c.coverage(trainer, pl_module)]


def coverage_table(rows: Sequence[CoverageRow], full: bool = False) -> Table:
    """Table of rows; those of one callback with the same `what` and `reason` become one line.

    Args:
        rows: as `coverage_rows` gives them.
        full: list all names of a line.
    """
    lines: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        lines.setdefault((row.callback, row.what, row.reason), []).append(row.name)
    table = Table("callback", "what", "number", "names", "why, or how", title="What the callbacks act on")
    for column in table.columns:
        column.overflow = "fold"
    table.columns[2].justify = "right"
    before = ""
    for (callback, what, reason), names in lines.items():
        if before and callback != before:
            table.add_section()
        shown = names if full or len(names) <= _SHOWN + 1 else [*names[:_SHOWN], f"and {len(names) - _SHOWN} more"]
        table.add_row("" if callback == before else callback, what, str(len(names)), ", ".join(shown), reason)
        before = callback
    return table
