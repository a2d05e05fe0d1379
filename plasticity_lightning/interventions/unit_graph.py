"""Which layer produces the units of a nonlinearity, and which layers consume them? Read from a running forward pass.

`UnitTracer` watches torch's functions while any code runs: an output of a linear or convolutional layer is tagged with
its producer, and the tag travels with the tensor through elementwise functions, normalisation, dropout, pooling and
flattening (where a channel becomes a block of features) to the layers that consume it. Functional code (`F.relu`) works
like modules. Where units are mixed or leave (residual additions, concatenations, losses, attention) the producer is
marked `opaque`, with the reason, and must be left alone. Passes without gradient are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from plasticity_lightning.interventions.unit_moves import (
    NONLINEAR,
    POOLED,
    RESHAPED,
    SAME,
    SCALED,
    UnitTag,
    permuted,
    reduced,
    reshaped,
)

__all__ = ["UnitGraph", "UnitLayer", "UnitTracer", "in_dim", "out_dim"]

_HARMLESS = frozenset(
    [
        "dim",
        "size",
        "numel",
        "stride",
        "is_floating_point",
        "is_contiguous",
        "element_size",
        "data_ptr",
        "__len__",
        "register_hook",
        "backward",
    ]
)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def out_dim(layer: nn.Module) -> int:
    """Dimension of the weight that counts the layer's own units."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def in_dim(layer: nn.Module) -> int:
    """Dimension of the weight that counts the units that the layer consumes."""
    return 0 if isinstance(layer, _TRANSPOSED) else 1


@dataclass
class UnitLayer:
    """The units of one producer.

    Args:
        units: their number.
        consumers: name of each consuming layer -> number of its inputs that one unit fills (positions after a flatten).
        norms: names of the normalisation layers on the way, whose affine parameters and statistics are per unit.
        active: a nonlinearity was seen behind the producer.
        opaque: why the units must not be replaced; empty if they may.
    """

    units: int
    consumers: dict[str, int] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    active: bool = False
    opaque: str = ""

    @property
    def replaceable(self) -> bool:
        """Whether a unit can be replaced without touching anything that is not known."""
        return self.active and bool(self.consumers) and not self.opaque


UnitGraph = dict[str, UnitLayer]


@dataclass(frozen=True)
class _Mixed:
    """Something computed from detached units: of no concern (a monitor's statistics) unless it reaches a layer."""

    producers: frozenset[str]
    reason: str


class UnitTracer(TorchFunctionMode):
    """Context that extends a unit graph by what runs inside it, and hands out the activations of units.

    Args:
        root: the module whose layers are looked for; layers with frozen weights are consumers, never producers.
        graph: extended in place, so that branches that run in turn are all known in the end.
        on_activation: called with (producer, activation [S, U]) after each nonlinearity that follows a producer, in
            the layout of `measures.samples_by_units`.

    Code compiled by `torch.compile` must run eagerly inside: `torch.compiler.set_stance("force_eager")`.
    """

    def __init__(
        self, root: nn.Module, graph: UnitGraph, on_activation: Callable[[str, Tensor], None] | None = None
    ) -> None:
        super().__init__()
        self.graph, self._on_activation = graph, on_activation
        self._tags: Any = WeakTensorKeyDictionary()
        self._layers: dict[int, tuple[str, nn.Module]] = {}
        self._norms: dict[int, tuple[str, nn.Module]] = {}
        owners: Counter[int] = Counter()
        for name, module in root.named_modules():
            tensors = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
            owners.update(id(t) for t in tensors)
            if isinstance(module, _LAYERS):
                self._layers.setdefault(id(module.weight), (name, module))
            elif "Norm" in type(module).__name__:
                self._norms.update({id(t): (name, module) for t in tensors})
        self._shared = {identity for identity, count in owners.items() if count > 1}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, then move tags from its inputs to its output."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        before = [(x, tag) for x in _tensors((args, kwargs)) if (tag := self._tags.get(x)) is not None]
        shape = tuple(before[0][0].shape) if before else ()
        out = func(*args, **kwargs)
        if not torch.is_grad_enabled():
            return out
        layer = self._layer(name, args, kwargs)
        if layer is not None:
            self._call(*layer, args[0] if args else kwargs["input"], out)
        elif before:
            self._follow(name, func, before, shape, args, kwargs, out)
        return out

    def _layer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, nn.Module] | None:
        if name != "linear" and not name.startswith("conv"):
            return None
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        return self._layers.get(id(weight))

    def _call(self, name: str, layer: nn.Module, given: Tensor, out: Tensor) -> None:
        dim = out.ndim - 1 if isinstance(layer, nn.Linear) else out.ndim - len(layer.kernel_size) - 1  # type: ignore[arg-type]  # a convolution
        tag = self._tags.get(given)
        if isinstance(tag, _Mixed):
            self._leave_all([(given, tag)], tag.reason)
        elif tag is not None:
            wanted = given.ndim - 1 if isinstance(layer, nn.Linear) else dim
            if tag.dim != wanted:
                self._leave(tag, f"{name} reads across its units")
            elif getattr(layer, "groups", 1) != 1:
                self._leave(tag, f"{name} is a grouped convolution")
            elif id(layer.weight) in self._shared:
                self._leave(tag, f"the weight of {name} is shared")
            elif self.graph[tag.producer].consumers.setdefault(name, tag.block) != tag.block:
                self._leave(tag, f"{name} reads it in two layouts")
        weight = layer.weight
        assert isinstance(weight, Tensor)
        units = self.graph.setdefault(name, UnitLayer(out.shape[dim]))
        if not weight.requires_grad:
            units.opaque = units.opaque or "its weights are frozen"
        elif id(weight) in self._shared:
            units.opaque = units.opaque or "its weight is shared"
        elif isinstance(layer, _TRANSPOSED) and layer.groups != 1:
            units.opaque = units.opaque or "it is a grouped transposed convolution"
        self._tags[out] = UnitTag(name, dim)

    def _follow(
        self,
        name: str,
        func: Callable[..., Any],
        before: list[tuple[Tensor, Any]],
        shape: tuple[int, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
    ) -> None:
        if name == "__get__":
            if isinstance(out, Tensor) and func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]  # a slot of C # a descriptor
                self._tags[out] = before[0][1]
                return
            if func not in (torch.Tensor.T.__get__, torch.Tensor.mT.__get__):  # type: ignore[attr-defined]
                return  # shape, device, grad and the like
        mixed = any(isinstance(tag, _Mixed) for _, tag in before)
        moved = None
        if isinstance(out, Tensor) and not mixed:
            moved = self._moved(name, before, shape, args, kwargs, out)
        if moved is not None:
            self._tags[out] = moved
            return
        numbers = [x for x in _tensors(out) if x.is_floating_point()] if name not in _HARMLESS else []
        for x in numbers:
            # an in-place function keeps the tensor and loses the units
            self._tags.pop(x, None)
        if not numbers:
            return
        if any(x.requires_grad for x, _ in before):
            self._leave_all(before, f"its output goes into {name}")
            return
        producers = frozenset(p for _, tag in before for p in _producers(tag))
        for x in numbers:
            self._tags[x] = _Mixed(producers, f"its output goes into {name} and on to a layer")

    def _moved(
        self,
        name: str,
        before: list[tuple[Tensor, Any]],
        shape: tuple[int, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Tensor,
    ) -> UnitTag | None:
        (source, tag), *others = before
        if any(x is not source for x, _ in others) or (
            args and isinstance(args[0], Tensor) and args[0] is not source and name not in SCALED
        ):
            return None
        same = tuple(out.shape) == shape
        if name in NONLINEAR and same:
            self._activate(tag, out)
            return UnitTag(tag.producer, tag.dim, tag.block, True)
        if name in SAME and same:
            self._normalise(tag, (args, kwargs), name, shape)
            return tag
        if name in SCALED and same:  # by a number, or by a mask of any shape that broadcasts
            return tag
        if (
            name in {"add", "sub", "__add__", "__radd__", "__sub__"}
            and same
            and sum(1 for _ in _tensors((args, kwargs))) == 1
        ):
            return tag
        if (
            name in POOLED
            and tag.block == 1
            and out.ndim == len(shape)
            and out.shape[: tag.dim + 1] == shape[: tag.dim + 1]
        ):
            return tag
        if name in RESHAPED:
            return reshaped(tag, shape, tuple(out.shape), self.graph[tag.producer].units)
        if name in {"mean", "amax", "sum"}:
            return reduced(tag, len(shape), args, kwargs)
        if name in {"permute", "transpose", "movedim"}:
            return permuted(name, tag, len(shape), args, kwargs)
        return None

    def _activate(self, tag: UnitTag, out: Tensor) -> None:
        self.graph[tag.producer].active = True
        if self._on_activation is None or tag.active:  # the first nonlinearity makes the activation
            return
        units = out.detach().movedim(tag.dim, -1)
        if tag.block > 1:
            units = units.unflatten(-1, (-1, tag.block)).movedim(-1, -2)
        with torch.no_grad():
            self._on_activation(tag.producer, units.reshape(-1, units.shape[-1]))

    def _normalise(self, tag: UnitTag, tree: Any, name: str, shape: tuple[int, ...]) -> None:
        norms = {self._norms[id(x)] for x in _tensors(tree) if id(x) in self._norms}
        layer = self.graph[tag.producer]
        for norm, module in norms:
            weight = getattr(module, "weight", None)
            own = module.running_mean if isinstance(getattr(module, "running_mean", None), Tensor) else weight
            if own is None or own.shape != (layer.units,) or tag.block != 1:
                self._leave(tag, f"{norm} does not keep its units apart")
            elif norm not in layer.norms:
                layer.norms.append(norm)

    def _leave_all(self, before: list[tuple[Tensor, Any]], reason: str) -> None:
        for _, tag in before:
            self._leave(tag, reason)

    def _leave(self, tag: UnitTag | _Mixed, reason: str) -> None:
        for producer in _producers(tag):
            self.graph[producer].opaque = self.graph[producer].opaque or reason


def _producers(tag: UnitTag | _Mixed) -> frozenset[str]:
    return tag.producers if isinstance(tag, _Mixed) else frozenset({tag.producer})


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for branch in tree:
            yield from _tensors(branch)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))
