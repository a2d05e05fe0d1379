"""Sees activation functions that are called as functions: `F.relu(x)`, `x.relu()`, the `activation` of a transformer layer.

A torch function mode observes the calls of the thread while it is entered and changes nothing in them. It also makes
`nn.TransformerEncoder` take its ordinary path instead of the fused one, whose activations nobody can see.
Tanh and sigmoid are left out: as functions they are mostly gates and outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch.overrides import TorchFunctionMode

__all__ = ["FunctionalActivations"]

_FUNCTIONS: dict[Callable[..., Any], str] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    torch.Tensor.relu: "relu",
    torch.Tensor.relu_: "relu",
    F.relu6: "relu6",
    F.leaky_relu: "leaky_relu",
    F.leaky_relu_: "leaky_relu",
    F.prelu: "prelu",
    F.elu: "elu",
    F.elu_: "elu",
    F.selu: "selu",
    F.selu_: "selu",
    F.celu: "celu",
    F.celu_: "celu",
    F.gelu: "gelu",
    F.silu: "silu",
    F.mish: "mish",
    F.hardswish: "hardswish",
}


class FunctionalActivations(TorchFunctionMode):
    """Reports each call of an activation function.

    Args:
        report: called with (kind, function of the input alone, input before the call, output).

    Attributes:
        needs_input: keep a copy of the input, which an in-place function overwrites.
    """

    def __init__(self, report: Callable[[str, Callable[[Tensor], Tensor], Tensor, Tensor], None]) -> None:
        super().__init__()
        self.report = report
        self.needs_input = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and report it if it is an activation function of a tensor."""
        kwargs = kwargs or {}
        kind = _FUNCTIONS.get(func)
        if kind is None or not (args and isinstance(args[0], Tensor)):
            return func(*args, **kwargs)
        before = args[0].detach().clone() if self.needs_input else args[0]
        output = func(*args, **kwargs)
        self.report(kind, lambda z: func(z.clone(), *args[1:], **kwargs), before, output)
        return output
