"""Contexts that several callbacks hold open from one hook to another, in any order.

Callbacks run in the order of their list both at the start and at the end of a batch, so of two that enter a context
the first also leaves first, while torch's function modes and compiler stances are stacks on which only the last may
leave. Contexts held here may overlap: to leave one, those entered after it are left too and entered again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

__all__ = ["EagerExecution", "counted", "hold", "release", "suspended", "uncounted", "unobserved"]


class _Held(threading.local):
    def __init__(self) -> None:
        self.contexts: list[AbstractContextManager[Any]] = []  # outermost first
        self.uncounted = 0


_held = _Held()  # like torch's stack of modes: one for each thread


class EagerExecution:
    """Code compiled by `torch.compile` runs eagerly inside, where modes and hooks see it; nothing is compiled anew."""

    def __enter__(self) -> None:
        # made here: a stance takes effect when it is made, and remembers the one before
        self._stance = torch.compiler.set_stance("force_eager")

    def __exit__(self, *exception: object) -> None:
        self._stance.__exit__(None, None, None)


def hold(context: AbstractContextManager[Any]) -> None:
    """Enter `context` until it is released. It must be one that can be entered again after it was left."""
    context.__enter__()
    _held.contexts.append(context)


def release(context: AbstractContextManager[Any]) -> None:
    """Leave `context`, whatever has been entered since.

    Raises:
        ValueError: if it is not held.
    """
    position = next((i for i, held in enumerate(_held.contexts) if held is context), None)
    if position is None:
        raise ValueError(f"release: {context!r} is not held")
    later = _held.contexts[position + 1 :]
    _leave_down_to(position)
    for other in later:
        hold(other)


@contextmanager
def suspended() -> Iterator[None]:
    """Run the block outside all held contexts, for code that is no part of the training step.

    Not for code that a function mode calls: there torch has taken that mode off its stack already.
    """
    contexts = list(_held.contexts)
    _leave_down_to(0)
    try:
        yield
    finally:
        for context in contexts:
            hold(context)


@contextmanager
def uncounted() -> Iterator[None]:
    """Forward passes inside belong to the training step, but not to the activity that monitors measure on its batch.

    For a network that judges another one's output, as the critic does in the actor's loss: it has gradients, yet the
    batch on which it learns is another.
    """
    _held.uncounted += 1
    try:
        with suspended():
            yield
    finally:
        _held.uncounted -= 1


def counted() -> bool:
    """Whether a forward pass now belongs to what a monitor measures: false inside `uncounted`."""
    return _held.uncounted == 0


def unobserved() -> AbstractContextManager[None]:
    """Context in which no function mode, held or a stranger's, sees what runs: for a few tensor functions of our own."""
    # allowed anywhere, also in a mode's own code; it turns off subclasses too, which `suspended` does not
    return torch._C.DisableTorchFunction()


def _leave_down_to(position: int) -> None:
    while len(_held.contexts) > position:
        _held.contexts.pop().__exit__(None, None, None)
