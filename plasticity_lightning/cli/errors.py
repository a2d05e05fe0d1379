"""Distils jsonargparse's nested error texts into one message: the key, what it got, what is allowed, the nearest name.

jsonargparse tries every member of a union type and reports all failures, indented, with a dump of the whole value.
The cause is the most specific of them; the valid keys of a nested class are read from the parser in the traceback.
"""

import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from plasticity_lightning.errors import nearest

__all__ = ["cause", "distil"]


def distil(message: str, error: BaseException | None, keys: Iterable[str], classes: Mapping[str, type]) -> str:
    """One clear sentence from a parser error.

    Args:
        message: text given to `ArgumentParser.error`.
        error: its exception; the parser of a nested class is found in the traceback.
        keys: all option names of the command.
        classes: classes that may be given by short name.
    """
    if match := re.search(r"unrecognized arguments: --?([^\s=]+)", message):
        return f"unknown option --{match[1]}{nearest(match[1], keys)}; `plasticity COMMAND --help` lists all"
    if match := re.search(r"(?:Option|Key) ['\"]([\w.+]+)['\"] is not (?:accepted|expected)", message):
        return _unknown_key(match[1], error, list(keys), classes)
    if match := re.search(r"does not accept (?:option|nested key) '([\w.]+)'", message):
        return _unknown_key(match[1], error, list(keys), classes)
    where = re.search(r'(?:Parser key|argument) "?([\w.+]+)"?:', message)
    key = where[1] if where else "value"
    expected = re.findall(r"Subtypes: \[(.*)\]", message)
    base = re.findall(r"[\w.]+\.(\w+)'?>?\]?", expected[0])[-1] if expected and "." in expected[0] else None
    if match := re.search(r"Problem with given class_path '([^']+)':\s*(.*)", message):
        return _unknown_class(key, match[1], match[2], base, classes)
    if match := re.search(r"Expected a dot import path string: (\S+)", message):
        return _unknown_class(key, match[1], "no such class", base, classes)
    kinds = [
        _plain(kind)
        for kind in re.findall(r"Expected an? ((?:<class '[^']+'>|typing\.\S+\[.*?\]|[\w.\[\], |]+))", message)
    ]
    given = re.search(r"(?:Got value|Given value): (.*)", message)
    if kinds and given:
        allowed = " or ".join(dict.fromkeys(kinds))
        choices = re.findall(r"'(\w+)'", allowed)
        return f"{key}: got {given[1]!r}, allowed: {allowed}{nearest(given[1], choices)}"
    return cause(message)


def cause(message: str) -> str:
    """The specific lines of a union's failures, or the whole message on one line if there is no union."""
    if "Does not validate against any of the Union subtypes" not in message:
        return re.sub(r"\s*\n\s*", " ", message.strip())
    body = message.split("Errors:", 1)[1].split("Given value type:", 1)[0]
    items = [re.sub(r"\s*\n\s*", " ", item).strip() for item in re.split(r"\n\s*- ", body)]
    specific = [item for item in items if item and not item.startswith("Expected a <class 'NoneType'>")]
    return "; ".join(dict.fromkeys(specific)) or re.sub(r"\s+", " ", message)


def _unknown_key(key: str, error: BaseException | None, keys: list[str], classes: Mapping[str, type]) -> str:
    owner, allowed = "", keys
    for parser, class_name in _parsers(error):
        names = [
            action.dest
            for action in parser._actions
            if action.dest not in ("help", "class_path.help", "config", "print_config") and "." not in action.dest
        ]
        if names:
            owner, allowed = class_name, names
    top = [name for name in allowed if "." not in name] if not owner else allowed
    listed = sorted(name for name in top if name not in ("help", "==SUPPRESS=="))
    of = f" of {owner}" if owner else ""
    if not listed:  # no class is named yet, or the class takes nothing
        takers = sorted(name for name, cls in classes.items() if key in _arguments(cls))
        return (
            f"unknown key {key!r}{of}: {'this class' if owner else 'the class given here, if any,'} takes no arguments; "
            "name a class first, by --config RECIPE or by class_path"
            + (f"; classes that take {key!r}: {', '.join(takers)}" if takers else "")
        )
    return f"unknown key {key!r}{of}; allowed: {', '.join(listed)}{nearest(key, allowed)}"


def _arguments(cls: type) -> Collection[str]:
    try:
        return inspect.signature(cls).parameters
    except ValueError:  # some built-in classes have none
        return ()


def _parsers(error: BaseException | None) -> Iterator[tuple[Any, str]]:
    """Parsers of nested classes in the traceback, outermost first, with the class's name."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for link in chain:
        trace = link.__traceback__
        while trace is not None:
            names = trace.tb_frame.f_locals
            owner = names.get("val_class")
            parser = names.get("parser")
            if isinstance(owner, type) and hasattr(parser, "_actions"):
                yield parser, owner.__name__
            trace = trace.tb_next


def _unknown_class(key: str, name: str, reason: str, base: str | None, classes: Mapping[str, type]) -> str:
    fitting = {
        short: cls
        for short, cls in classes.items()
        if base is None or base in (parent.__name__ for parent in cls.__mro__)
    }
    module, _, short = name.rpartition(".")
    inside = vars(sys.modules[module]) if module in sys.modules else {}
    siblings = [n for n, v in inside.items() if isinstance(v, type)] if inside else list(fitting)
    ours = sorted(n for n, cls in fitting.items() if cls.__module__.startswith("plasticity_lightning"))
    kind = f"a {base}" if base else "a class"
    allowed = f"allowed: {kind} by import path" + (f" or one of {', '.join(ours)}" if ours else "")
    return f"{key}: got class {name!r} ({reason.strip()}), {allowed}{nearest(short, siblings)}"


def _plain(kind: str) -> str:
    kind = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", kind).strip()
    return "null" if kind == "NoneType" else kind.replace("typing.Literal", "one of ")
