"""No value of a printed table is cut off."""

import pytest
from rich.table import Table

from plasticity_lightning.cli.tables import print_table


def wide_table() -> Table:
    table = Table("layer", *(f"measure number {i}" for i in range(12)))
    table.add_row("network.encoder.layers.0", *(f"0.{i:02}3456789" for i in range(12)))
    return table


def test_a_pipe_gets_the_full_width(capsys: pytest.CaptureFixture) -> None:
    print_table(wide_table())
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert all(f"0.{i:02}3456789" in printed for i in range(12))
    assert "network.encoder.layers.0" in printed


def test_a_narrow_terminal_folds(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich then takes the output for a terminal
    monkeypatch.setenv("COLUMNS", "90")
    print_table(wide_table())
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "network.encoder.layers.0" not in printed  # folded over several lines
