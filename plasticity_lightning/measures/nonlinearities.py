"""The nonlinearities that the package knows, in one table: how each is written, and which measures mean something behind it.

The monitor recognises by it activations among modules and function calls, measures ask it where they apply, and
interventions follow units through it. A row is known by the classes of torch's modules and by the names under which
`torch`, `torch.nn.functional` and tensors offer the function, in-place forms (`relu_`) included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = [
    "CUSTOM",
    "LINEAR",
    "NONLINEARITIES",
    "SPIKING",
    "Kind",
    "NonlinearityKind",
    "function_names",
    "kind_named",
    "kind_of_function",
    "kind_of_module",
]

Kind = Literal["any", "signed", "bounded", "elementwise", "spiking"]


@dataclass(frozen=True)
class NonlinearityKind:
    """One nonlinearity.

    Args:
        name: of the function, which is also its name in torch.
        modules: classes that apply it.
        signed: a > 0 says "active" (GELU and SiLU let negative values through, tanh is symmetric).
        saturated: for a bounded function, where an output [any shape] is at a bound (bool of the same shape).
        elementwise: an entry of the output depends on that of the input alone, and a second call gives it again.
        spikes: the output is 0 or 1; None where that is not known.
        gate: written as a function it is mostly a gate, an output, a loss or arithmetic, no layer's activation.
    """

    name: str
    modules: tuple[type[nn.Module], ...] = ()
    signed: bool = False
    saturated: Callable[[Tensor], Tensor] | None = None
    elementwise: bool = True
    spikes: bool | None = False
    gate: bool = False

    def admits(self, kind: Kind) -> bool:
        """Whether it is of a kind: "signed" (ReLU-like), "bounded", "elementwise", "spiking" or "any"."""
        return {
            "any": True,
            "signed": self.signed,
            "bounded": self.saturated is not None,
            "elementwise": self.elementwise,
            "spiking": self.spikes is not False,
        }[kind]


def _tanh_bound(a: Tensor) -> Tensor:
    return a.abs() > 0.99


def _sigmoid_bound(a: Tensor) -> Tensor:
    return (a > 0.99) | (a < 0.01)


def _hardsigmoid_bound(a: Tensor) -> Tensor:
    return (a <= 0) | (a >= 1)


def _hardtanh_bound(a: Tensor) -> Tensor:
    return a.abs() >= 1


def _relu6_bound(a: Tensor) -> Tensor:
    return a >= 6


# what the monitor also measures, and no function of torch stands for
SPIKING = NonlinearityKind("spiking", signed=True, elementwise=False, spikes=True)
CUSTOM = NonlinearityKind("custom", signed=True, elementwise=False, spikes=None)
LINEAR = NonlinearityKind("linear", elementwise=False)

NONLINEARITIES: dict[str, NonlinearityKind] = {
    kind.name: kind
    for kind in (
        NonlinearityKind("relu", (nn.ReLU,), signed=True),
        NonlinearityKind("relu6", (nn.ReLU6,), signed=True, saturated=_relu6_bound),
        NonlinearityKind("leaky_relu", (nn.LeakyReLU,), signed=True),
        NonlinearityKind("prelu", (nn.PReLU,), signed=True),
        NonlinearityKind("rrelu", (nn.RReLU,), signed=True, elementwise=False),
        NonlinearityKind("elu", (nn.ELU,), signed=True),
        NonlinearityKind("selu", (nn.SELU,), signed=True),
        NonlinearityKind("celu", (nn.CELU,), signed=True),
        NonlinearityKind("threshold", (nn.Threshold,), signed=True),
        NonlinearityKind("gelu", (nn.GELU,)),
        NonlinearityKind("silu", (nn.SiLU,)),
        NonlinearityKind("mish", (nn.Mish,)),
        NonlinearityKind("hardswish", (nn.Hardswish,)),
        NonlinearityKind("softsign", (nn.Softsign,)),
        NonlinearityKind("hardtanh", (nn.Hardtanh,), saturated=_hardtanh_bound),
        NonlinearityKind("tanhshrink", (nn.Tanhshrink,)),
        NonlinearityKind("softshrink", (nn.Softshrink,)),
        NonlinearityKind("hardshrink", (nn.Hardshrink,)),
        NonlinearityKind("tanh", (nn.Tanh,), saturated=_tanh_bound, gate=True),
        NonlinearityKind("sigmoid", (nn.Sigmoid,), saturated=_sigmoid_bound, gate=True),
        NonlinearityKind("hardsigmoid", (nn.Hardsigmoid,), saturated=_hardsigmoid_bound, gate=True),
        NonlinearityKind("softplus", (nn.Softplus,), gate=True),
        NonlinearityKind("logsigmoid", (nn.LogSigmoid,), gate=True),
        *(NonlinearityKind(name, gate=True) for name in ("clamp", "clip", "clamp_min", "clamp_max")),
        *(NonlinearityKind(name, gate=True) for name in ("sin", "cos", "abs", "square", "exp", "erf")),
    )
}

# classes of spiking nodes by name, so that their packages need not be imported: (package, class)
_SPIKING_CLASSES = frozenset(
    {("spikingjelly", "BaseNode"), ("snntorch", "SpikingNeuron"), (__name__.partition(".")[0], "BackendNode")}
)
_OF_CLASS = {cls: kind for kind in NONLINEARITIES.values() for cls in kind.modules}


def kind_of_module(module: nn.Module) -> NonlinearityKind | None:
    """The nonlinearity that a module is, by its class or the next of its bases; None for another module."""
    for cls in type(module).__mro__:
        if cls in _OF_CLASS:
            return _OF_CLASS[cls]
        if (cls.__module__.partition(".")[0], cls.__name__) in _SPIKING_CLASSES:
            return SPIKING
    return None


def kind_named(name: str) -> NonlinearityKind:
    """The nonlinearity of this `name`, `spiking`, `custom` and `linear` among them."""
    return NONLINEARITIES.get(name) or {kind.name: kind for kind in (SPIKING, CUSTOM, LINEAR)}[name]


def kind_of_function(function: Callable[..., Any]) -> NonlinearityKind | None:
    """The nonlinearity that a function of torch or a tensor's method computes; None for another function."""
    return _OF_FUNCTION.get(function)


def function_names() -> frozenset[str]:
    """Names of all of them as functions, in-place forms included: `relu`, `relu_`, ..."""
    return frozenset(name + suffix for name in NONLINEARITIES for suffix in ("", "_"))


def _functions() -> dict[Callable[..., Any], NonlinearityKind]:
    places = (torch, torch.Tensor, torch.nn.functional, torch._C._nn)
    found = {}
    for kind in NONLINEARITIES.values():
        for name in (kind.name, f"{kind.name}_"):
            for place in places:
                if callable(getattr(place, name, None)):
                    found[getattr(place, name)] = kind
    return found


_OF_FUNCTION = _functions()
