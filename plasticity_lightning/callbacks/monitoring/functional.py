"""Sees activation functions that are called as functions: `F.relu(x)`, `x.relu()`, the `activation` of a transformer layer.

A torch function mode observes the calls of the thread while it is entered and changes nothing in them. It also makes
`nn.TransformerEncoder` take its ordinary path instead of the fused one, whose activations nobody can see.
Those that `measures.nonlinearities` marks as gates (tanh, sigmoid, clamp, ...) are left out: as functions they are mostly
gates, outputs and arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from plasticity_lightning.measures.nonlinearities import NonlinearityKind, kind_of_function

__all__ = ["FunctionalActivations"]


class FunctionalActivations(TorchFunctionMode):
    """Reports each call of an activation function.

    Args:
        report: called with (kind, function of the input alone, input before the call, output).

    Attributes:
        needs_input: keep a copy of the input, which an in-place function overwrites.
    """

    def __init__(self, report: Callable[[NonlinearityKind, Callable[[Tensor], Tensor], Tensor, Tensor], None]) -> None:
        super().__init__()
        self.report = report
        self.needs_input = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and report it if it is an activation function of a tensor."""
        kwargs = kwargs or {}
        kind = kind_of_function(func)
        source = args[0] if args else kwargs.get("input")
        if kind is None or kind.gate or not isinstance(source, Tensor):
            return func(*args, **kwargs)
        before = source.detach().clone() if self.needs_input else source
        output = func(*args, **kwargs)
        rest = {key: value for key, value in kwargs.items() if key != "input"}
        self.report(kind, lambda z: func(z.clone(), *args[1:], **rest), before, output)
        return output
