"""The argument parser of commands that are no subcommands of Lightning's: a mistake is one message of the package."""

from __future__ import annotations

import argparse
from typing import NoReturn

from plasticity_lightning.errors import UserError

__all__ = ["CommandParser"]


class CommandParser(argparse.ArgumentParser):
    """As argparse's, but it does not leave the program.

    Raises:
        UserError: for a mistake in the arguments; it names the command's `--help`.
    """

    def error(self, message: str) -> NoReturn:
        """Tell the mistake."""
        raise UserError(f"{message}; see `{self.prog} --help`")
