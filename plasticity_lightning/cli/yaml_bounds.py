"""What a YAML file may ask for before it is parsed: text of a sensible size, aliases that neither multiply nor contain themselves.

The parser builds what aliases stand for again and again, so nine lines can stand for a billion values ("billion laughs"), and an
alias inside its own anchor has no end. Both are found in the stream of events, in which nothing has been expanded yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plasticity_lightning.errors import UserError

__all__ = ["check_yaml"]

_MOST_BYTES = 1 << 22
_MOST_VALUES = 100_000
_MOST_DEEP = 100  # the parser takes time by the square of it


def check_yaml(path: Path) -> None:
    """Refuse a file that is no UTF-8 text, no YAML, or stands for more than 100,000 values.

    Raises:
        UserError: naming the file and the fault.
    """
    import yaml  # the fast commands do without it

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path}: {path.stat().st_size} bytes are too many for a recipe; at most {_MOST_BYTES}")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no recipe: byte {error.start} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    # the parser of configs reads with libyaml where it is there, which takes more than the one written in Python
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml.parse(text, Loader=loader), path)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: " + " ".join(str(error).split())) from None


def _check_events(events: Iterable[Any], path: Path) -> None:
    sizes: dict[str, int] = {}  # anchor -> values that it stands for
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, values so far)
    total = 0
    for event in events:
        name, anchor = type(event).__name__, getattr(event, "anchor", None)
        if name in ("SequenceStartEvent", "MappingStartEvent"):
            open_nodes.append((anchor, 1))
            if len(open_nodes) > _MOST_DEEP:
                raise UserError(f"{path} is nested too deeply for a recipe: more than {_MOST_DEEP} levels")
            continue
        if name in ("SequenceEndEvent", "MappingEndEvent"):
            anchor, size = open_nodes.pop()
        elif name == "AliasEvent":
            if any(anchor == outer for outer, _ in open_nodes):
                raise UserError(f"{path}: the alias *{anchor} stands inside its own anchor, so it has no end")
            anchor, size = None, sizes.get(str(anchor), 1)
        elif name == "ScalarEvent":
            size = 1
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if open_nodes:
            outer, inner = open_nodes[-1]
            open_nodes[-1] = (outer, inner + size)
            size = inner + size
        total = max(total, size)
        if total > _MOST_VALUES:
            raise UserError(
                f"{path} stands for more than {_MOST_VALUES} values, by aliases of aliases or by its length"
            )
