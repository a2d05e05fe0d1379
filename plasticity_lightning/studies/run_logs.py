"""Finished runs read back from disk: their scalars from TensorBoard event files, their configuration, and their groups.

Runs that differ in nothing but seeds belong together. A run is a folder with event files; `config.yaml` beside them
says what was run.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from plasticity_lightning.errors import UserError

__all__ = ["Group", "Run", "Series", "find_runs", "group_runs", "read_run"]

_NOT_A_NAME = re.compile(r"(version|seed|run)?[_-]?\d+")
# where and how a run was made, not what it was
_INCIDENTAL = re.compile(
    r"(.*\.)?(seed|seed_everything|ckpt_path|default_root_dir|enable_progress_bar|enable_model_summary|log_every_n_steps)"
)


@dataclass(frozen=True)
class Series:
    """One logged scalar: `steps` ascending, int64 [N], `values` float64 [N]."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Run:
    """A run folder, its flat configuration without seeds and folders (None without `config.yaml`), seeds, scalars."""

    path: Path
    config: dict[str, Any] | None
    seeds: tuple[Any, ...]
    scalars: dict[str, Series]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration."""

    label: str
    runs: tuple[Run, ...]


def find_runs(folder: Path) -> list[Path]:
    """The folders with event files at or below `folder`, sorted.

    Raises:
        UserError: if the folder does not exist or holds no event file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give run folders, as `plasticity fit` prints them, or LABEL=FOLDER")
    found = sorted({path.parent for path in folder.rglob("events.out.tfevents.*")}, key=_natural)
    if not found:
        raise UserError(f"{folder}: no TensorBoard event file in it or below; was the run made with logger=false?")
    return found


def read_run(folder: Path) -> Run:
    """Read a run. Where a resumed run wrote a step again, the later value counts.

    Raises:
        UserError: if its configuration is not readable.
    """
    from tensorboard.backend.event_processing import event_accumulator

    sizes = {kind: 1 for kind in event_accumulator.DEFAULT_SIZE_GUIDANCE} | {event_accumulator.SCALARS: 0}
    events = event_accumulator.EventAccumulator(str(folder), size_guidance=sizes)
    events.Reload()
    scalars = {}
    for tag in events.Tags()["scalars"]:
        by_step = {event.step: event.value for event in events.Scalars(tag)}
        steps = sorted(by_step)
        scalars[tag] = Series(np.array(steps, np.int64), np.array([by_step[step] for step in steps], np.float64))
    flat = _read_config(folder / "config.yaml")
    if flat is None:
        return Run(folder, None, (), scalars)
    seeds = tuple(value for key, value in sorted(flat.items()) if re.fullmatch(r"(.*\.)?seed(_everything)?", key))
    kept = {key: value for key, value in flat.items() if not _INCIDENTAL.fullmatch(key)}
    return Run(folder, kept, seeds, scalars)


def group_runs(arguments: Iterable[str]) -> list[Group]:
    """Runs named on the command line, grouped: all runs of `LABEL=FOLDER`, or those of one configuration.

    A group without label is named by the last folders of its path that tell it from the others, leaving out
    `version_N` and `seed_N`. Runs that logged no scalar are left out.

    Args:
        arguments: `FOLDER` or `LABEL=FOLDER`; runs lie in the folder or below.

    Raises:
        UserError: if a folder holds no run with scalars, or a label covers different configurations.
    """
    groups: list[tuple[str | None, list[Run]]] = []
    for argument in arguments:
        label, equals, place = argument.rpartition("=")
        runs = [run for run in map(read_run, find_runs(Path(place))) if run.scalars]
        if not runs:
            raise UserError(f"{place}: its runs logged no scalar; were they stopped before the first one?")
        if equals:
            _check_same(label, runs)
            same = next((members for name, members in groups if name == label), None)
            if same is None:
                groups.append((label, runs))
            else:
                same += runs
                _check_same(label, same)
            continue
        for run in runs:
            for name, members in groups:
                if name is None and _kind(members[0]) == _kind(run):
                    members.append(run)
                    break
            else:
                groups.append((None, [run]))
    labels = _names([members[0].path for name, members in groups if name is None])
    return [Group(name if name is not None else next(labels), tuple(members)) for name, members in groups]


def _read_config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        loaded = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    return dict(_flat("", loaded))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        entries = enumerate(value)
    else:
        yield prefix, value
    for key, item in entries:
        yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)


def _kind(run: Run) -> Any:
    """What runs of one group share."""
    return run.config if run.config is not None else _name_parts(run.path)


def _check_same(label: str, runs: list[Run]) -> None:
    first = runs[0]
    for other in runs[1:]:
        old, new = first.config or {}, other.config or {}
        missing = object()
        differing = [key for key in sorted(old | new) if old.get(key, missing) != new.get(key, missing)]
        if differing:
            key = differing[0]
            raise UserError(
                f"{label}={first.path}: its runs differ in more than seeds: {key} is {old.get(key)!r} there and "
                f"{new.get(key)!r} in {other.path} ({len(differing)} keys differ); give them different labels"
            )


def _names(paths: list[Path]) -> Iterator[str]:
    named = [_name_parts(path) for path in paths]
    if len(set(named)) < len(named):  # one folder holds several configurations
        named = [path.absolute().parts for path in paths]
    for parts in named:
        length = 1
        while sum(other[-length:] == parts[-length:] for other in named) > 1 and length < len(parts):
            length += 1
        yield "/".join(parts[-length:])


def _name_parts(path: Path) -> tuple[str, ...]:
    return tuple(part for part in path.absolute().parts if not _NOT_A_NAME.fullmatch(part))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which version_10 comes after version_9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(path))]
