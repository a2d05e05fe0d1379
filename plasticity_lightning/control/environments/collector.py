"""Several environments stepped together, in this process or in others, with the same results to the bit.

One tick is `submit(actions)`, then `result()`; between the two the processes of mode "process" simulate and render
while this process does something else. An environment whose episode ends is reset in the same tick: the step then
carries both the last frame of the old episode and the first of the new one, so no tick is lost and an action is
always taken on a frame of a running episode.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from plasticity_lightning.control.environments.contract import State
from plasticity_lightning.control.environments.group import EnvironmentGroup
from plasticity_lightning.control.environments.processes import EnvironmentProcess
from plasticity_lightning.control.environments.registry import EnvironmentSpec
from plasticity_lightning.control.environments.steps import Steps, place_steps
from plasticity_lightning.errors import nearest

__all__ = ["Collector", "Mode"]

Mode = Literal["inline", "process"]


class Collector:
    """E environments of one kind.

    Args:
        spec: what to build.
        seeds: one an environment; E is their number. Ranks of a distributed run pass different ones.
        mode: "inline" steps them one after the other in `result` (the oracle of the tests); "process" in processes
            of their own, without torch, frames through shared memory.
        processes: how many processes share the environments in mode "process"; None gives each its own.

    Attributes:
        form: of one environment; `frame_shape`, `actions` and `resumable` are its own.

    Raises:
        ValueError: if there is no seed, the mode is unknown or there are more processes than environments.
        UserError: if the environment cannot be built.
    """

    def __init__(
        self, spec: EnvironmentSpec, seeds: list[int], mode: Mode = "process", processes: int | None = None
    ) -> None:
        if not seeds:
            raise ValueError("a collector needs at least one seed, one an environment")
        if mode not in ("inline", "process"):
            raise ValueError(f"mode={mode!r} must be 'inline' or 'process'{nearest(mode, ('inline', 'process'))}")
        n_parts = 1 if mode == "inline" else len(seeds) if processes is None else processes
        if not 1 <= n_parts <= len(seeds):
            raise ValueError(f"processes={processes} must be in 1..{len(seeds)}, the number of environments")
        self.spec, self.n = spec, len(seeds)
        cuts = [len(seeds) * i // n_parts for i in range(n_parts + 1)]
        self._slices = [slice(low, high) for low, high in pairwise(cuts)]
        self._parts: list[EnvironmentGroup | EnvironmentProcess] = []
        self._submitted = False
        self._broken: BaseException | None = None
        kind = EnvironmentGroup if mode == "inline" else EnvironmentProcess
        try:
            for part in self._slices:
                self._parts.append(kind(spec, seeds[part]))
            for one in self._parts:  # processes build at the same time
                one.build()
        except BaseException:
            self.close()
            raise
        self.form = self._parts[0].form
        self.frame_shape, self.actions, self.resumable = self.form.frame_shape, self.form.actions, self.form.resumable

    def reset(self) -> np.ndarray:
        """Begin an episode everywhere; returns the first frames uint8 [E, C, H, W]."""
        if self._submitted:
            self.result()
        self._all("reset")
        return np.concatenate([part.steps.reset_frame for part in self._parts])

    def submit(self, actions: np.ndarray) -> None:
        """Let every environment take its action.

        Args:
            actions: float32 [E, A] or int64 [E].

        Raises:
            ValueError: if an action is out of range.
            RuntimeError: if the last result has not been fetched.
            BrokenEnvironmentError: if an environment's process is dead.
        """
        if self._submitted:
            raise RuntimeError("submit: fetch the result of the last actions first")
        actions = np.asarray(actions)
        if actions.shape != (self.n, *self.actions.shape):
            raise ValueError(f"actions of shape {list(actions.shape)}, expected {[self.n, *self.actions.shape]}")
        self.actions.check(actions)
        for part, where in zip(self._parts, self._slices, strict=True):
            part.steps.action[...] = actions[where]
        self._send("step")
        self._submitted = True

    def result(self) -> Steps:
        """Wait for the step of the submitted actions.

        Raises:
            RuntimeError: if nothing was submitted.
            BrokenEnvironmentError: if an environment died or returned no step, a NaN for instance.
        """
        if not self._submitted:
            raise RuntimeError("result: submit actions first")
        self._submitted = False
        self._receive()
        steps, _ = place_steps(None, self.n, self.form)
        for part, where in zip(self._parts, self._slices, strict=True):
            for name, array in vars(part.steps).items():
                getattr(steps, name)[where] = array
        return steps

    def render(self, height: int, width: int) -> np.ndarray:
        """The present scenes for videos, uint8 [E, height, width, 3], between `result` and `submit`.

        Raises:
            RuntimeError: if a result has not been fetched.
        """
        if self._submitted:
            raise RuntimeError("render: fetch the result of the submitted actions first")
        return np.stack(
            [scene for scenes in self._all("render", [(height, width)] * len(self._parts)) for scene in scenes]
        )

    def state(self) -> list[State]:
        """States of all environments, between `result` and `submit`.

        Raises:
            RuntimeError: if a result has not been fetched.
        """
        if self._submitted:
            raise RuntimeError("state: fetch the result of the submitted actions first")
        return [state for states in self._all("state") for state in states]

    def set_state(self, states: list[State]) -> None:
        """Continue from `state`, of a collector of either mode with the same environments.

        Raises:
            ValueError: if the number of environments differs.
        """
        if len(states) != self.n:
            raise ValueError(f"the state is of {len(states)} environments, this collector has {self.n}")
        if self._submitted:
            self.result()
        self._all("set_state", [states[where] for where in self._slices])

    def close(self) -> None:
        """End the environments and their processes; more calls do nothing."""
        while self._parts:
            self._parts.pop().close()

    def _all(self, command: str, arguments: list[Any] | None = None) -> list[Any]:
        self._send(command, arguments)
        return self._receive()

    def _send(self, command: str, arguments: list[Any] | None = None) -> None:
        if not self._parts:
            raise RuntimeError(f"{command}: the collector is closed")
        for part, argument in zip(self._parts, arguments or [None] * len(self._parts), strict=True):
            self._unbroken(part.send, command, argument)

    def _receive(self) -> list[Any]:
        return [self._unbroken(part.receive) for part in self._parts]

    def _unbroken(self, call: Callable[..., Any], *arguments: Any) -> Any:
        # after a failure nobody knows which answers are still under way: every later call repeats the error
        if self._broken is not None:
            raise self._broken
        try:
            return call(*arguments)
        except BaseException as error:
            self._broken = error
            raise
