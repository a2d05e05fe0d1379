"""Prints a Rich table so that no value is cut off: in full width into a file or pipe, folded in a narrow terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

__all__ = ["print_table"]


def print_table(table: Table) -> None:
    """Print `table` to standard output; its columns fold where they must, and never end in an ellipsis."""
    for column in table.columns:
        column.overflow = "fold"
    console = Console()
    if not console.is_terminal:
        wanted = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console = Console(width=max(console.width, wanted))
    console.print(table)
