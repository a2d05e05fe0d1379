"""What can be wrong with data: not there, not in the format that it claims, or asked for with an impossible argument.

All three are `UserError`s, so that the command line shows one message, and each is also the built-in error that a
stranger's `except` clause expects.
"""

from plasticity_lightning.errors import UserError

__all__ = ["DataArgumentError", "DataFormatError", "DataNotFoundError"]


class DataNotFoundError(UserError, FileNotFoundError):
    """No complete copy of a data set was found or downloaded; the message lists the places and the ways to get it."""


class DataFormatError(UserError, ValueError):
    """A data file is empty, cut short, damaged or of another format; the message names the file and the fault."""


class DataArgumentError(UserError, ValueError):
    """An argument of a data module is out of range; the message names it, its value and what is allowed."""
