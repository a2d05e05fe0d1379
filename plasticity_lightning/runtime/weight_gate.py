"""One gate for every write to weights outside the optimiser, so that invariants over the weights hold in any order.

Who writes opens the gate around the write (`changing_weights`); who holds an invariant (masks, tied tensors, an average
of the weights) registers how to restore it (`hold_invariant`). When the outermost gate closes, the invariants of the
module that was changed, and of every module around or inside it, are restored: before the next forward pass, validation
or checkpoint can see the weights, whatever the order of the callbacks.

    with torch.no_grad(), changing_weights(pl_module):  # who writes
        pl_module.head.weight.normal_()

    handle = hold_invariant(pl_module, lambda changed: pl_module.head.weight.mul_(mask))  # who holds, until
    handle.remove()
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Restore", "changing_weights", "hold_invariant"]

Restore = Callable[[Sequence[Tensor] | None], Any]
_holders: WeakKeyDictionary[nn.Module, OrderedDict[int, Restore]] = WeakKeyDictionary()


class _Gates(threading.local):
    """What one thread has changed behind gates that are not all closed, and whether invariants are being restored."""

    def __init__(self) -> None:
        self.changes: list[tuple[nn.Module, list[Tensor] | None]] = []
        self.depth = 0
        self.restoring = False


_gates = _Gates()


@contextmanager
def changing_weights(module: nn.Module, tensors: Iterable[Tensor] | None = None) -> Iterator[None]:
    """Open the gate: within the block, weights of `module` may be written; after it, every invariant holds again.

    Gates nest, within one thread; invariants are restored when the outermost closes, also after an exception. Gradients,
    and what multiplies weights by a mask, need no gate. Nothing is restored if nobody holds an invariant.

    Args:
        module: whose weights change: the LightningModule, or the part of it that is written.
        tensors: those that change, as a hint that may save work; None: any of the module's.
    """
    gates = _gates
    if gates.restoring:  # an invariant that is being restored writes, too
        yield
        return
    gates.changes.append((module, None if tensors is None else list(tensors)))
    gates.depth += 1
    try:
        yield
    finally:
        gates.depth -= 1
        if not gates.depth:
            changes, gates.changes = gates.changes, []
            gates.restoring = True
            try:
                _restore(changes)
            finally:
                gates.restoring = False


def hold_invariant(module: nn.Module, restore: Restore) -> RemovableHandle:
    """Have `restore` called whenever a gate on the weights of `module` has closed.

    Args:
        module: over whose weights the invariant is. It may be a part of the module that is written, or contain it.
        restore: brings the invariant back, in place and without autograd; called with the changed tensors, or None if
            any may have changed. It must be idempotent: with n holders it is called up to n times a gate, so that one
            invariant that follows from another (a copy of a masked weight) settles in any order of registration.

    Returns:
        The handle whose `remove()` ends it. The registration keeps what `restore` refers to alive until then.
    """
    held = _holders.setdefault(module, OrderedDict())
    handle = RemovableHandle(held)
    held[handle.id] = restore
    return handle


@torch.no_grad()
def _restore(changes: Sequence[tuple[nn.Module, list[Tensor] | None]]) -> None:
    changed: list[Tensor] | None = []
    for _, tensors in changes:
        changed = None if changed is None or tensors is None else changed + tensors
    written = list({id(module): module for module, _ in changes}.values())
    restores = [
        restore
        for holder, held in list(_holders.items())
        if held and any(_related(holder, module) for module in written)
        for restore in held.values()
    ]
    for round_ in range(len(restores)):
        for restore in restores:
            restore(changed if round_ == 0 else None)


def _related(a: nn.Module, b: nn.Module) -> bool:
    """Whether one module is the other or contains it."""
    return a is b or any(child is b for child in a.modules()) or any(child is a for child in b.modules())
