"""Environments by name: our own task, dm_control's suite, Atari, any Gymnasium environment, any class by import path."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from plasticity_lightning.control.environments.atari import FOR_EVALUATION, AtariEnvironment
from plasticity_lightning.control.environments.contract import PixelEnvironment
from plasticity_lightning.control.environments.dm_control_suite import DmControlEnvironment, suite_tasks
from plasticity_lightning.control.environments.gymnasium_environment import GymnasiumEnvironment
from plasticity_lightning.control.environments.reach import ReachEnvironment
from plasticity_lightning.errors import UserError, nearest

__all__ = ["ENVIRONMENTS", "EnvironmentSpec", "make_environment"]


ENVIRONMENTS: dict[str, Callable[..., PixelEnvironment]] = {"reach": ReachEnvironment}
"""Factories by exact name. What a program adds is known to it alone: for other processes, give `package.module:Class`."""

ATARI, GYMNASIUM = "atari/", "gymnasium/"


def make_environment(name: str, seed: int = 0, **options: Any) -> PixelEnvironment:
    """The environment `name`.

    Args:
        name: `reach` or another entry of `ENVIRONMENTS`; a task of dm_control's suite, `cartpole_swingup`; a game,
            `atari/pong`; an environment of Gymnasium, `gymnasium/CarRacing-v3`; or `package.module:Class`, anything
            that returns a `PixelEnvironment`.
        seed: of everything random in it.
        options: arguments of its class.

    Raises:
        UserError: if there is no such environment (the message names the nearest), or it does not take these options.
    """
    if name in ENVIRONMENTS:
        factory = ENVIRONMENTS[name]
    elif name.startswith(ATARI):
        factory = partial(AtariEnvironment, name.removeprefix(ATARI))
    elif name.startswith(GYMNASIUM):
        factory = partial(GymnasiumEnvironment, name.removeprefix(GYMNASIUM))
    elif ":" in name:
        factory = _imported(name)
    else:
        tasks = suite_tasks()
        if name not in tasks:
            known = [*ENVIRONMENTS, *tasks]
            raise UserError(
                f"there is no environment {name!r}{nearest(name, known, n=3)} (games are {ATARI}GAME, environments of "
                f"Gymnasium {GYMNASIUM}ID, your own package.module:Class)"
            )
        factory = partial(DmControlEnvironment, name)
    try:
        inspect.signature(factory).bind(seed=seed, **options)  # so that a fault inside it keeps its traceback
    except TypeError as error:
        raise UserError(f"environment {name!r} does not take options {options}: {error}") from error
    try:
        return factory(seed=seed, **options)
    except ValueError as error:
        raise UserError(f"environment {name!r} with options {options}: {error}") from error


@dataclass(frozen=True)
class EnvironmentSpec:
    """An environment by name and options, so that another process can build it.

    Args:
        name: see `make_environment`.
        options: arguments of the environment's class, without the seed.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, seed: int) -> PixelEnvironment:
        """Build it; see `make_environment` for errors."""
        return make_environment(self.name, seed=seed, **self.options)

    def for_evaluation(self) -> EnvironmentSpec:
        """The same task with whole episodes and true rewards: games without clipping, and not ended by a lost life."""
        return EnvironmentSpec(self.name, self.options | FOR_EVALUATION) if self.name.startswith(ATARI) else self


def _imported(path: str) -> Callable[..., PixelEnvironment]:
    module, _, attribute = path.partition(":")
    try:
        factory: Callable[..., PixelEnvironment] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"environment {path!r} cannot be imported: {error}") from error
    return factory
