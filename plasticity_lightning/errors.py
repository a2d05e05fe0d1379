"""The one exception that the command line prints as a plain message, and the "did you mean" of all messages.

Raise `UserError` where the person at the keyboard can repair the cause (a missing file, an impossible option): the
message names what was given, what is allowed and what to do. Everything else keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["UserError", "nearest"]


class UserError(Exception):
    """A mistake in the input, told in one message; the command line prints it without traceback and exits with `status`."""

    status = 2


def nearest(name: str, choices: Iterable[str], n: int = 1) -> str:
    """`"; did you mean 'x'?"` for the choices most like `name`, at most `n` of them, or an empty string."""
    near = get_close_matches(name, list(choices), n=n, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
