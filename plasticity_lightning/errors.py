"""The one exception that the command line prints as a plain message.

Raise `UserError` where the person at the keyboard can repair the cause (a missing file, an impossible option): the
message names what was given, what is allowed and what to do. Everything else keeps its traceback.
"""

__all__ = ["UserError"]


class UserError(Exception):
    """A mistake in the input, told in one message; the command line prints it without traceback and exits with 2."""
