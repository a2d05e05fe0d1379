"""Some environments of one kind behind a few commands, as they run in this process and in a process of their own.

`send(command)` starts one, `receive()` returns its result. Commands: "reset" (first frames to `steps.reset_frame`), "step"
(by `steps.action`, results to `steps`), "state", "set_state".
"""

from __future__ import annotations

from mmap import mmap
from typing import Any

import numpy as np

from plasticity_lightning.control.environments.contract import (
    BrokenEnvironmentError,
    EnvironmentForm,
    PixelEnvironment,
    State,
    Step,
)
from plasticity_lightning.control.environments.registry import EnvironmentSpec
from plasticity_lightning.control.environments.steps import Steps, place_steps
from plasticity_lightning.errors import UserError

__all__ = ["EnvironmentGroup"]


class EnvironmentGroup:
    """Environments that work one after the other when their result is asked for.

    Args:
        spec: what to build.
        seeds: one an environment.

    Attributes:
        form: of one environment, once built.
        steps: where actions are written and results appear, once built.
    """

    form: EnvironmentForm
    steps: Steps

    def __init__(self, spec: EnvironmentSpec, seeds: list[int]) -> None:
        self.spec, self.seeds = spec, seeds
        self._environments: list[PixelEnvironment] = []
        self._waiting: tuple[str, Any] | None = None

    def build(self) -> None:
        """Make the environments.

        Raises:
            UserError: if that is impossible.
        """
        for seed in self.seeds:
            self._environments.append(self.spec.make(seed))
        self.form = self._environments[0].form
        self.place(None)

    def place(self, buffer: mmap | None) -> None:
        """Let `steps` lie in `buffer`; None takes memory of its own."""
        self.steps, _ = place_steps(buffer, len(self.seeds), self.form)

    def send(self, command: str, argument: Any = None) -> None:
        """Keep a command for `receive`."""
        self._waiting = command, argument

    def receive(self) -> Any:
        """Perform the command that was sent.

        Raises:
            BrokenEnvironmentError: if an environment raises or returns no step.
        """
        assert self._waiting is not None
        (command, argument), self._waiting = self._waiting, None
        return getattr(self, f"_{command}")(argument)

    def close(self) -> None:
        """Close the environments; more calls do nothing."""
        while self._environments:
            self._environments.pop().close()

    def _reset(self, _: None) -> None:
        for i, environment in enumerate(self._environments):
            self.steps.reset_frame[i] = _guarded(environment, None).frame

    def _step(self, _: None) -> None:
        steps = self.steps
        for i, environment in enumerate(self._environments):
            step = _guarded(environment, steps.action[i])
            steps.frame[i], steps.reward[i], steps.discount[i], steps.last[i] = step
            if step.last:
                steps.reset_frame[i] = _guarded(environment, None).frame

    def _state(self, _: None) -> list[State]:
        return [environment.state() for environment in self._environments]

    def _set_state(self, states: list[State]) -> None:
        for environment, state in zip(self._environments, states, strict=True):
            environment.set_state(state)

    def _render(self, size: tuple[int, int]) -> list[np.ndarray]:
        return [environment.render(*size) for environment in self._environments]


def _guarded(environment: PixelEnvironment, action: np.ndarray | None) -> Step:
    try:
        return environment.reset() if action is None else environment.step(action)
    except UserError:
        raise
    except Exception as error:
        raise BrokenEnvironmentError(
            f"environment {environment.name} failed: {type(error).__name__}: {error}"
        ) from error
