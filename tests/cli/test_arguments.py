"""The parser of plain commands tells a mistake as one message and does not leave the program."""

import pytest

from plasticity_lightning.cli.arguments import CommandParser
from plasticity_lightning.errors import UserError


def test_a_mistake_names_the_help_of_the_command():
    parser = CommandParser(prog="plasticity something")
    parser.add_argument("--number", type=int)
    with pytest.raises(UserError, match="invalid int value: 'x'; see `plasticity something --help`"):
        parser.parse_args(["--number", "x"])
