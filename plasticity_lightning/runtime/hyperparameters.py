"""Hyperparameters as checkpoints keep them: numbers, strings and containers, and no place in a package.

Lightning stores the arguments of a module as they come, an object with the path of its class, and under its command line the path of the module's
own class too. A class that moves would leave such a checkpoint unreadable. Here a dataclass becomes a dict of its fields, and paths are left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar, get_type_hints

from lightning.pytorch import LightningModule

__all__ = ["from_hyperparameter", "save_plain_hyperparameters"]

T = TypeVar("T")
_PATHS = ("_class_path", "_instantiator")  # Lightning's command line adds them


def save_plain_hyperparameters(module: LightningModule, ignore: Sequence[str] = ()) -> None:
    """Call in a module's `__init__`, instead of `save_hyperparameters`: keep its arguments as plain values.

    Args:
        module: the module under construction.
        ignore: names of arguments that are not kept.
    """
    caller = inspect.currentframe()
    module.save_hyperparameters(ignore=[*_PATHS, *ignore], frame=caller.f_back if caller else None)
    plain = {name: asdict(value) for name, value in module.hparams.items() if _is_instance_of_dataclass(value)}
    if plain:
        module.save_hyperparameters(plain)


def from_hyperparameter(cls: type[T], value: T | dict[str, Any]) -> T:
    """The parameters themselves: an instance of the dataclass `cls` as it is, a dict of its fields from a checkpoint made into one.

    Fields that are dataclasses themselves are made likewise; unknown ones are refused by `cls`.
    """
    if not isinstance(value, dict):
        return value
    types = get_type_hints(cls)
    nested = {name: types[name] for name in value if is_dataclass(types.get(name))}
    return cls(**{n: from_hyperparameter(nested[n], given) if n in nested else given for n, given in value.items()})


def _is_instance_of_dataclass(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)
