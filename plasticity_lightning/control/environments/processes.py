"""A group of environments in a process of its own, torch-free: commands through a socket, frames through shared memory.

The process is a fresh interpreter that imports the environments and nothing else. It is not started by
`multiprocessing`, whose children import the parent's main module again, and with it torch, triton and all that a
renderer may clash with. The shared memory is anonymous: whatever is killed, nothing is left behind.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

from plasticity_lightning.control.environments.contract import BrokenEnvironmentError, EnvironmentForm
from plasticity_lightning.control.environments.headless import TORCH_FREE
from plasticity_lightning.control.environments.registry import EnvironmentSpec
from plasticity_lightning.control.environments.steps import Steps, place_steps
from plasticity_lightning.errors import UserError

__all__ = ["EnvironmentProcess"]


class EnvironmentProcess:
    """As `EnvironmentGroup`, which it runs in another process, at the same time as this one.

    Args:
        spec: what to build.
        seeds: one an environment.
    """

    form: EnvironmentForm
    steps: Steps

    def __init__(self, spec: EnvironmentSpec, seeds: list[int]) -> None:
        self.spec, self.seeds = spec, seeds
        ours, theirs = socket.socketpair()
        self._memory = os.memfd_create("environment-steps")
        self._connection = Connection(ours.detach())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "plasticity_lightning.control.environments.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), self._memory),
                env=_environment_variables(),
                stdin=subprocess.DEVNULL,
            )
        except BaseException:
            self._connection.close()
            os.close(self._memory)
            raise
        finally:
            theirs.close()
        try:
            self.send("build", (spec, seeds))
        except BaseException:
            self.close()
            raise

    def build(self) -> None:
        """Wait until the environments are made.

        Raises:
            UserError: if that is impossible.
        """
        self.form = self.receive()
        size = place_steps(None, len(self.seeds), self.form)[1]
        os.ftruncate(self._memory, size)
        # closed with its last user: the steps of a collector may outlive it
        self.steps, _ = place_steps(mmap.mmap(self._memory, size), len(self.seeds), self.form)
        self.send("map", (self._memory, size))
        self.receive()

    def send(self, command: str, argument: Any = None) -> None:
        """Start a command.

        Raises:
            BrokenEnvironmentError: if the process is dead.
        """
        try:
            self._connection.send((command, argument))
        except OSError as error:
            raise self._death() from error

    def receive(self) -> Any:
        """Wait for the command and return its result.

        Raises:
            BrokenEnvironmentError: if the process is dead or an environment failed.
            UserError: what an environment has to say to the user.
        """
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(answer, UserError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process; more calls do nothing."""
        if self._connection.closed:
            return
        self._connection.close()  # it ends by itself when nobody listens any more
        os.close(self._memory)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _death(self) -> BrokenEnvironmentError:
        try:
            code: int | None = self._process.wait(1)
        except subprocess.TimeoutExpired:
            code = None
        how = (
            "closed its connection"
            if code is None
            else f"died by signal {-code}"
            if code < 0
            else f"exited with {code}"
        )
        return BrokenEnvironmentError(
            f"the process of environment {self.spec.name} (seeds {self.seeds}) {how}; its own messages stand above. "
            "The last checkpoint is whole: resume from it"
        )


def _environment_variables() -> dict[str, str]:
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    # one thread an environment: Mesa's rasteriser starts one a core otherwise, in every process
    variables.setdefault("LP_NUM_THREADS", "0")
    variables[TORCH_FREE] = "1"
    variables.setdefault("OMP_NUM_THREADS", "1")
    return variables
