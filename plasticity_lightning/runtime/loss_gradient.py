"""The gradient of the loss as it is before callbacks add terms of their own to it.

Lightning calls `on_before_optimizer_step` in the order of the callbacks. Who adds to gradients there (a penalty on the
weights) says so first (`adding_to_gradients`), and who needs the loss's gradient alone (growth where it is largest) has
registered to read it (`read_loss_gradient`); so the order does not matter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["adding_to_gradients", "read_loss_gradient"]

Read = Callable[[Optimizer], Any]
_readers: WeakKeyDictionary[nn.Module, OrderedDict[int, Read]] = WeakKeyDictionary()


def read_loss_gradient(module: nn.Module, read: Read) -> RemovableHandle:
    """Have `read(optimizer)` called before a callback adds to the gradients of that optimiser, maybe several times a step.

    Returns:
        The handle whose `remove()` ends it.
    """
    held = _readers.setdefault(module, OrderedDict())
    handle = RemovableHandle(held)
    held[handle.id] = read
    return handle


def adding_to_gradients(module: nn.Module, optimizer: Optimizer) -> None:
    """Let the readers read: call it in `on_before_optimizer_step`, before writing to gradients."""
    for read in list(_readers.get(module, {}).values()):
        read(optimizer)
