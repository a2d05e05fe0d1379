"""What a resumed run is made of: the settings in the checkpoint, not those of the new command, unless `--override` is given.

A checkpoint holds the complete configuration of its run. All that decides the outcome is compared with the new command's: seed,
model, data, callbacks and the Trainer's options that change what is computed. Each difference is told. What only says where and
how long (folders, workers, threads, devices, loggers, limits of epochs, steps, frames and time) is the new command's in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import yaml

from plasticity_lightning.errors import UserError

__all__ = ["Difference", "compare_settings", "merged_settings", "refuse_loss"]

# the Trainer's options that change results; the others say where, how fast and how long
_TRAINER = ("callbacks", "precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches",
            "limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval", "check_val_every_n_epoch",
            "log_every_n_steps")  # fmt: skip
# arguments of models and data modules that change no result, by the end of their path
_FREE = ("root", "num_workers", "download", "cache_dir", "threads", "engine", "environment.mode", "replay.prefetch")
_LENGTH = ("StopAfter",)  # callbacks that only say how long
_ABSENT = object()


class Difference(NamedTuple):
    """A setting that the checkpoint and the new command have differently; None stands for null or absent."""

    key: str
    saved: Any
    given: Any


def compare_settings(saved: str, given: Mapping[str, Any]) -> list[Difference]:
    """Differences between the configuration in a checkpoint (YAML) and the new command's, in the order of keys."""
    before, now = dict(_flat(_deciding(yaml.safe_load(saved)))), dict(_flat(_deciding(given)))
    keys = [key for key in sorted(before.keys() | now.keys()) if not _is_free(key)]
    pairs = [(key, before.get(key, _ABSENT), now.get(key, _ABSENT)) for key in keys]
    # an argument that only one of two versions of the package knows is no difference, a callback or class is
    changed = [(k, a, b) for k, a, b in pairs if a != b and (_ABSENT not in (a, b) or _is_class(k))]
    return [Difference(key, None if a is _ABSENT else a, None if b is _ABSENT else b) for key, a, b in changed]


def merged_settings(saved: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The deciding settings of the checkpoint, with what is free taken from the new command."""
    kept = _deciding(yaml.safe_load(saved))
    for part in ("model", "data"):
        _take_free(kept.get(part), given.get(part))
    callbacks = [c for c in kept["trainer"]["callbacks"] if _short(c) not in _LENGTH]
    kept["trainer"]["callbacks"] = [c for c in _callbacks(given) if _short(c) in _LENGTH] + callbacks
    return kept


def refuse_loss(indispensable: Iterable[str], given: Mapping[str, Any]) -> None:
    """Refuse a command that lacks a callback without which the run would lose what it holds.

    Args:
        indispensable: state keys of callbacks, each beginning with the name of its class.
        given: the new command's configuration.

    Raises:
        UserError: naming the callback.
    """
    here = {_short(callback) for callback in _callbacks(given)}
    lost = sorted({key.partition("{")[0] for key in indispensable} - here)
    if lost:
        raise UserError(
            f"the checkpoint belongs to a run with {', '.join(lost)}, which the command lacks: without it the run would lose "
            "what it holds (the zeros of a sparse network). Give the callback again, or --override to go on without it"
        )


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    trainer = config.get("trainer") or {}
    kept: dict[str, Any] = {key: config[key] for key in ("seed_everything", "model", "data") if key in config}
    kept["trainer"] = {key: trainer[key] for key in _TRAINER if key in trainer}
    kept["trainer"]["callbacks"] = _callbacks(config)
    return kept


def _callbacks(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = (config.get("trainer") or {}).get("callbacks") or []
    return [
        dict(c) if isinstance(c, Mapping) else {"class_path": c}
        for c in (listed if isinstance(listed, list) else [listed])
    ]


def _is_free(key: str) -> bool:
    length = key.removeprefix("trainer.callbacks.").partition(".")[0].partition("[")[0] in _LENGTH
    return length or any(key == free or key.endswith(f".{free}") for free in _FREE)


def _take_free(kept: Any, given: Any, prefix: str = "") -> None:
    if isinstance(kept, dict) and isinstance(given, Mapping):
        for name in kept.keys() & given.keys():
            path = prefix if name == "init_args" else f"{prefix}.{name}"
            if _is_free(path):
                kept[name] = given[name]
            else:
                _take_free(kept[name], given[name], path)


def _short(callback: Mapping[str, Any]) -> str:
    return str(callback.get("class_path")).rpartition(".")[2]


def _is_class(key: str) -> bool:
    return key.endswith("class_path")


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            # `model.init_args.width` is `model.width` to the reader
            yield from _flat(inner, prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key))
    elif prefix == "trainer.callbacks":
        count: dict[str, int] = {}
        for callback in value:
            name = _short(callback)
            count[name] = count.get(name, 0) + 1
            yield from _flat(callback, f"{prefix}.{name}" + (f"[{count[name]}]" if count[name] > 1 else ""))
    else:
        yield prefix, value
