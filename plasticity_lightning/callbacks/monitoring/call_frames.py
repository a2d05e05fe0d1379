"""Which module is running, and which layer ran last: the place of an activation that is called as a function.

`F.relu(self.fc(x))` follows the layer `fc` and is called in the module that owns it. The activation belongs to the last
layer that ran inside the module that calls it (`net.fc`); where none has (an expert that multiplies by its own raw
matrix, a convolution of graphs whose layers are of no class of torch's), it belongs to the calling module itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.callbacks.monitoring.layers import Caller, Nonlinearity, producer_layout

__all__ = ["CallFrames"]


class CallFrames:
    """The calls of modules that are under way, innermost last, each with the layer that ran last inside it.

    Attributes:
        producer: name of the layer that ran last anywhere; empty before the first.
        unit_dim: dimension of units of its output of three or more dimensions; None where that is not known.
        ran: a layer ran, in a forward pass that counts.
    """

    def __init__(self) -> None:
        self._reset()

    def install(self, callers: Sequence[Caller], all_calls: bool) -> list[RemovableHandle]:
        """Watch these modules; returns the handles. With `all_calls` forward passes without gradient count, too."""
        self._reset()
        handles = []
        for caller in callers:
            if not caller.leaf:
                handles.append(caller.module.register_forward_pre_hook(self._entered(caller)))
            handles.append(caller.module.register_forward_hook(self._left(caller, all_calls)))
        return handles

    @property
    def owner(self) -> str:
        """Name of what an activation that is called as a function now belongs to; empty if nothing has run."""
        module, last = self._stack[-1]
        return last or module

    def passed(self, found: Nonlinearity) -> None:
        """A watched nonlinearity ran; a layer whose own output is measured produces it, too."""
        layout = producer_layout(found.module)
        if layout is not None:
            self._produced(found.name, layout)

    def _reset(self) -> None:
        self.producer, self.ran = "", False
        self.unit_dim: int | None = None
        self._stack: list[tuple[str, str]] = [("", "")]

    def _entered(self, caller: Caller) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._stack.append((caller.name, ""))

        return hook

    def _left(self, caller: Caller, all_calls: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not caller.leaf:
                last = self._stack.pop()[1] if len(self._stack) > 1 else ""
                if last and not caller.produces:  # what follows a block follows the layer that ran last in it
                    self._stack[-1] = (self._stack[-1][0], last)
            if caller.produces:
                self._produced(caller.name, caller.unit_dim)
                if caller.leaf:
                    self.ran = self.ran or all_calls or torch.is_grad_enabled()

        return hook

    def _produced(self, name: str, unit_dim: int | None) -> None:
        self.producer, self.unit_dim = name, unit_dim
        self._stack[-1] = (self._stack[-1][0], name)
