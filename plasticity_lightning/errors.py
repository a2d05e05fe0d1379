"""Errors that are the user's to mend: the command line shows them as one message, without a traceback."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something the user gave is missing or wrong; the message says what and how to mend it."""
