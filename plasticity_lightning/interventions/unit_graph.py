"""Which layer produces the units of a nonlinearity, and which layers consume them? Read from a running forward pass.

`UnitTracer` watches torch's functions while any code runs: an output of a layer is tagged with its producer, and the tag
travels with the tensor (`unit_moves`) to the layers that consume it. A layer is a matrix named `weight` that a linear
map, a convolution or a matrix product uses, whatever its class. Functional code works like modules. Of a layer whose
output is cut (fused projections) the parts are units of their own, named `layer[3:7]`; of two layers whose outputs are
multiplied (gated units) the pairs are, named `gate*up`. Where units are mixed or leave (residual additions,
concatenations, losses) the producer is marked `opaque`, with the reason, and must be left alone. Passes without gradient
are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from plasticity_lightning.interventions.unit_functions import (
    ATTENTION,
    CASTS,
    ENTRYWISE,
    GATHERED,
    HARMLESS,
    NONLINEAR,
    POOLED,
    PRODUCTS,
    REDUCED,
    RESHAPED,
    SAME,
    VIEWS,
)
from plasticity_lightning.interventions.unit_moves import (
    Activation,
    UnitTag,
    covered,
    merged,
    reduced,
    reshaped,
    samples_of,
    substituted,
    viewed,
)

__all__ = ["UnitGraph", "UnitLayer", "UnitTracer", "in_dim", "out_dim"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MATRIX_PRODUCTS = frozenset(["matmul", "mm", "__matmul__", "addmm", "__rmatmul__"])


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
        parts: where the units come from: [layer, first unit, dimension of its weight], one entry a layer; empty for a
            layer of that name from its first unit on.
        reads: dimension of a consumer's weight that counts its inputs, where it is not that of its class.
        cut: the output is used in parts, which are entries of their own.
    """

    units: int
    consumers: dict[str, int] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    active: bool = False
    opaque: str = ""
    parts: list[list[Any]] = field(default_factory=list)
    reads: dict[str, int] = field(default_factory=dict)
    cut: bool = False

    @property
    def replaceable(self) -> bool:
        """Whether a unit can be replaced without touching anything that is not known."""
        return self.active and bool(self.consumers) and not self.opaque and not self.cut


UnitGraph = dict[str, UnitLayer]


@dataclass(frozen=True)
class _Mixed:
    """Something computed from detached units: of no concern (a monitor's statistics) unless it reaches a layer."""

    producers: frozenset[str]
    reason: str


@dataclass(frozen=True)
class _Use:
    """A layer at work: the module that owns the weight, and how the weight is read."""

    name: str
    layer: nn.Module
    given: Tensor
    position: int  # of the units in the output, and of what is read in the input, from the end
    out_dim: int
    in_dim: int
    groups: int = 1
    computed: bool = False


class UnitTracer(TorchFunctionMode):
    """Context that extends a unit graph by what runs inside it, and hands out the activations of units.

    Args:
        root: the module whose layers are looked for.
        graph: extended in place, so that branches that run in turn are all known in the end.
        on_activation: called with (producer, activation [S, U]) when a layer reads units behind a nonlinearity, or they
            are mixed, once for each activation, in the layout of `measures.samples_by_units`.

    Code compiled by `torch.compile` must run eagerly inside: `torch.compiler.set_stance("force_eager")`.
    """

    def __init__(
        self, root: nn.Module, graph: UnitGraph, on_activation: Callable[[str, Tensor], None] | None = None
    ) -> None:
        super().__init__()
        self.graph, self._on_activation = graph, on_activation
        self._tags: Any = WeakTensorKeyDictionary()
        self._weights: Any = WeakTensorKeyDictionary()  # views of weights -> (id, whether transposed, whether computed)
        self._layers: dict[int, tuple[str, nn.Module]] = {}
        self._norms: dict[int, tuple[str, nn.Module]] = {}
        owners: Counter[int] = Counter()
        for name, module in root.named_modules():
            tensors = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
            owners.update(id(t) for t in tensors)
            if "Norm" in type(module).__name__:
                self._norms.update({id(t): (name, module) for t in tensors})
            self._find_layer(name, module)
        self._shared = {identity for identity, count in owners.items() if count > 1}

    def _find_layer(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim >= 2:
            self._layers.setdefault(id(weight), (name, module))
        elif "weight" in getattr(module, "parametrizations", {}):
            for source in module.parametrizations.weight.parameters():  # type: ignore[union-attr]
                if source.ndim >= 2:
                    self._layers.setdefault(id(source), (name, module))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, then move tags from its inputs to its output."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        before = [(x, tag) for x in _tensors((args, kwargs)) if (tag := self._tags.get(x)) is not None]
        shapes = [tuple(x.shape) for x, _ in before]
        in_place = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or kwargs.get("inplace")
        if before and in_place:
            for _, tag in before:  # what is kept of an activation is about to be overwritten
                self._tell(tag)
        out = func(*args, **kwargs)
        use = self._use(name, args, kwargs)
        if use is not None:
            self._call(use, out)
        elif before:
            self._follow(name, func, before, shapes, args, kwargs, out)
        else:
            self._follow_weight(name, args, kwargs, out)
        return out

    # -- layers

    def _use(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Use | None:
        if name == "linear" or name.startswith("conv"):
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            given = args[0] if args else kwargs.get("input")
        elif name in _MATRIX_PRODUCTS:
            first = 1 if name == "addmm" else 0
            names = ("mat1", "mat2") if name in {"addmm", "mm"} else ("input", "other")
            given = args[first] if len(args) > first else kwargs.get(names[0])
            weight = args[first + 1] if len(args) > first + 1 else kwargs.get(names[1])
        else:
            return None
        if not isinstance(weight, Tensor) or not isinstance(given, Tensor):
            return None
        identity, turned, computed = self._weights.get(weight, (id(weight), False, False))
        if identity not in self._layers:
            return None
        owner, layer = self._layers[identity]
        if name == "linear":
            return _Use(owner, layer, given, 1, int(turned), 1 - int(turned), computed=computed)
        if name in _MATRIX_PRODUCTS:
            return _Use(owner, layer, given, 1, 1 - int(turned), int(turned), computed=computed)
        transposed = "transpose" in name
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        spatial = weight.ndim - 2
        return _Use(owner, layer, given, spatial + 1, int(transposed), 1 - int(transposed), groups, computed)

    def _call(self, use: _Use, out: Tensor) -> None:
        name, layer, given = use.name, use.layer, use.given
        weight = layer.weight
        assert isinstance(weight, Tensor)
        shared = id(weight) in self._shared
        why = (
            "is computed from a parameter (normalised, standardised): zeros in the parameter need not stay zeros in it"
        )
        tag = self._tags.get(given)
        if isinstance(tag, _Mixed):
            self._leave_all([(given, tag)], tag.reason)
        elif tag is not None:
            tag = self._part(tag, tuple(given.shape))
            read = [d for d, (s, n) in enumerate(zip(tag.strides, given.shape, strict=True)) if s and n > 1]
            if read and (read != [given.ndim - use.position] or tag.strides[read[0]] != 1):
                self._leave(tag, f"{name} reads across its units")
            elif use.groups != 1:
                self._leave(tag, f"{name} is a grouped convolution")
            elif shared:
                self._leave(tag, f"the weight of {name} is shared")
            elif use.computed:
                self._leave(tag, f"the weight of {name} {why}")
            elif self.graph[tag.producer].consumers.setdefault(name, tag.block) != tag.block:
                self._leave(tag, f"{name} reads it in two layouts")
            elif self.graph[tag.producer].cut:
                self._leave(tag, f"{name} reads it whole and other layers read parts of it")
            else:
                if use.in_dim != in_dim(layer):
                    self.graph[tag.producer].reads[name] = use.in_dim
                self._tell(tag)
        dim = out.ndim - use.position
        units = self.graph.setdefault(name, UnitLayer(out.shape[dim]))
        if use.out_dim != out_dim(layer):
            units.parts = [[name, 0, use.out_dim]]
        if shared:
            units.opaque = units.opaque or "its weight is shared"
        elif use.computed:
            units.opaque = units.opaque or f"its weight {why}"
        elif use.groups != 1 and use.out_dim == 1:
            units.opaque = units.opaque or "it is a grouped transposed convolution"
        self._tags[out] = UnitTag(name, tuple(int(d == dim) for d in range(out.ndim)))

    def _follow_weight(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return
        for x in _tensors((args, kwargs)):
            identity, turned, computed = self._weights.get(x, (id(x), False, False))
            if identity in self._layers and out is not x:
                turn = out.ndim == 2 and out.shape == x.shape[::-1] and name in VIEWS | {"__get__"}
                same = out.shape == x.shape and name in CASTS
                self._weights[out] = (identity, turned ^ turn, computed or not (turn or same))
                return

    # -- what happens between layers

    def _follow(
        self,
        name: str,
        func: Callable[..., Any],
        before: list[tuple[Tensor, Any]],
        shapes: list[tuple[int, ...]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
    ) -> None:
        if name == "__get__":
            if isinstance(out, Tensor) and func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]  # set in C, which mypy does not see
                self._tags[out] = before[0][1]
                return
            if func not in _TURNED:
                return  # shape, device, grad and the like
        outputs = [out] if isinstance(out, Tensor) else list(out) if isinstance(out, tuple | list) else []
        outputs = [x for x in outputs if isinstance(x, Tensor)]
        moved: list[UnitTag | None] = []
        if outputs and not any(isinstance(tag, _Mixed) for _, tag in before):
            moved = self._moved(name, func, before, shapes, args, kwargs, outputs)
        if moved and all(tag is not None for tag in moved):
            for x, tag in zip(outputs, moved, strict=True):
                self._tags[x] = tag
            return
        numbers = [x for x in _tensors(out) if x.is_floating_point()] if name not in HARMLESS else []
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
        func: Callable[..., Any],
        before: list[tuple[Tensor, UnitTag]],
        shapes: list[tuple[int, ...]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: list[Tensor],
    ) -> list[UnitTag | None]:
        source, tag = before[0]
        shape, out = shapes[0], outputs[0]
        alone = all(x is source for x, _ in before)
        tensors = list(_tensors((args, kwargs)))
        others = [x for x in tensors if all(x is not y for y, _ in before)]
        same = len(outputs) == 1 and tuple(out.shape) == shape

        def run(stand_in: Tensor) -> Any:
            return func(*substituted(args, source, stand_in), **substituted(kwargs, source, stand_in))

        if name in ATTENTION:
            return [self._attended(before, args, kwargs, out)]
        if name == "glu" and alone:
            return [self._halved(tag, shape, out, kwargs.get("dim", args[1] if len(args) > 1 else -1))]
        if name in NONLINEAR and same and alone and tensors[0] is source:
            return [self._activate(tag, out)]
        if name in SAME and same and alone and tensors[0] is source:
            self._normalise(tag, others, shape)
            return [tag]
        if name in PRODUCTS | ENTRYWISE and len(outputs) == 1:
            return [self._entrywise(name, before, shapes, others, out)]
        if not alone:
            return []
        if name in GATHERED and len(outputs) == 1:
            return [self._gathered(tag, shape, out, kwargs.get("dim", args[1] if len(args) > 1 else None))]
        if name in VIEWS or name == "__get__":
            return [] if others else viewed(tag, shape, run)
        if name in RESHAPED and len(outputs) == 1:
            return [reshaped(tag, shape, tuple(out.shape))]
        if name in REDUCED and len(outputs) == 1:
            return [reduced(tag, shape, run)]
        if name in POOLED and out.ndim == len(shape):
            return [tag for _ in outputs] if self._pools_positions(name, tag, shape, out, args, kwargs) else []
        if name in _MATRIX_PRODUCTS and len(others) == 1 and tensors[-1] is source:
            return [self._averaged(tag, shape, out)]
        return []

    def _activate(self, tag: UnitTag, out: Tensor) -> UnitTag:
        # of several nonlinearities in a row the first makes the activation
        return tag if tag.activation is not None else self._reactivated(tag, out)

    def _entrywise(
        self,
        name: str,
        before: list[tuple[Tensor, UnitTag]],
        shapes: list[tuple[int, ...]],
        others: list[Tensor],
        out: Tensor,
    ) -> UnitTag | None:
        shape, tags = tuple(out.shape), [tag for _, tag in before]
        one = len({id(x) for x, _ in before}) == 1 and len(before) == 1
        if one:
            # by a number or a bias; products also by a mask or a scale of any shape that broadcasts
            shifts = all(isinstance(x, nn.Parameter) and x.ndim <= 1 for x in others)
            keeps = shapes[0] == shape and (name in PRODUCTS or shifts)
            return (self._activate(tags[0], out) if "pow" in name else tags[0]) if keeps else None
        if others:
            return None
        tag = merged(tags, shapes, shape)
        if tag is None:
            return self._gated(before, shapes, out) if "mul" in name else None
        # x * sigmoid(x) and the like: what is computed from the units is their activation
        if name in ENTRYWISE and all(t.activation is None for t in tags):
            return tag
        return self._reactivated(tag, out)

    def _reactivated(self, tag: UnitTag, out: Tensor) -> UnitTag:
        layer = self.graph[tag.producer]
        layer.active = True
        return replace(tag, activation=Activation(out, replace(tag, activation=None), layer.units))

    def _gated(
        self, before: list[tuple[Tensor, UnitTag]], shapes: list[tuple[int, ...]], out: Tensor
    ) -> UnitTag | None:
        if len(before) != 2 or shapes[0] != shapes[1] or tuple(out.shape) != shapes[0]:
            return None
        first, second = (self._part(tag, shape) for (_, tag), shape in zip(before, shapes, strict=True))
        layers = self.graph[first.producer], self.graph[second.producer]
        if first.layout != second.layout or layers[0].units != layers[1].units or first.producer == second.producer:
            return None
        if not (layers[0].active or layers[1].active):
            return None
        return self._reactivated(self._joint(first, second), out)

    def _halved(self, tag: UnitTag, shape: tuple[int, ...], out: Tensor, dim: int) -> UnitTag | None:
        halves = viewed(tag, shape, lambda x: x.chunk(2, dim))
        if len(halves) != 2 or any(half is None for half in halves) or shape[dim] % 2:
            return None
        first, second = (self._part(half, tuple(out.shape)) for half in halves if half is not None)
        if first.producer == second.producer:  # the dimension is not that of the units
            return None
        return self._reactivated(self._joint(first, second), out)

    def _joint(self, first: UnitTag, second: UnitTag) -> UnitTag:
        key = f"{first.producer}*{second.producer}"
        if key not in self.graph:
            a, b = self.graph[first.producer], self.graph[second.producer]
            why = next((f"{k}: {x.opaque}" for k, x in ((first.producer, a), (second.producer, b)) if x.opaque), "")
            for k, x in ((first.producer, a), (second.producer, b)):
                if x.consumers:
                    why = why or f"{next(iter(x.consumers))} reads {k} before the product"
            parts = [*_sources(first.producer, a), *_sources(second.producer, b)]
            self.graph[key] = UnitLayer(a.units, norms=[*a.norms, *b.norms], active=True, opaque=why, parts=parts)
            a.cut = b.cut = True
        return replace(first, producer=key)

    def _part(self, tag: UnitTag, shape: tuple[int, ...]) -> UnitTag:
        """The tag itself, or that of the units in a part of its producer, which become an entry of their own."""
        whole = self.graph[tag.producer]
        range_ = covered(tag, shape)
        if range_ is None or (range_[0] % tag.block or range_[1] % tag.block):
            self._leave(tag, "its output is used in parts that are no whole units")
            return tag
        first, number = range_[0] // tag.block, range_[1] // tag.block
        if number == whole.units:
            return tag
        key = f"{tag.producer}[{first}:{first + number}]"
        if key not in self.graph:
            parts = [[layer, start + first, dim] for layer, start, dim in _sources(tag.producer, whole)]
            self.graph[key] = UnitLayer(number, norms=[], active=whole.active, opaque=whole.opaque, parts=parts)
            if whole.norms:
                self.graph[key].opaque = self.graph[key].opaque or f"{whole.norms[0]} lies before the cut"
            for consumer in whole.consumers:
                self._leave(tag, f"{consumer} reads it whole and other layers read parts of it")
            whole.cut = True
        rebased = replace(tag, producer=key, start=0)
        if (kept := tag.activation) is not None:
            self.graph[key].active = True
            rebased = replace(rebased, activation=replace(kept, first=kept.first + first))
        return rebased

    def _attended(
        self, before: list[tuple[Tensor, UnitTag]], args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
    ) -> UnitTag | None:
        """Attention averages the channels of its values over positions; its queries and keys are mixed."""
        names = ("query", "key", "value")
        compared = [args[i] if len(args) > i else kwargs.get(name) for i, name in enumerate(names)]
        value, found = compared[2], None
        for x, tag in before:
            part = self._part(tag, tuple(x.shape))
            if x is value and sum(1 for y in compared if y is x) == 1:
                found = self._averaged(part, tuple(x.shape), out)
                if found is not None:
                    found = self._reactivated(found, out)
                    continue
            self._leave(part, "its output is compared with others by attention")
        return found

    def _averaged(self, tag: UnitTag, shape: tuple[int, ...], out: Tensor) -> UnitTag | None:
        """The tag of (weights over positions) @ (units by position)."""
        if len(shape) < 2 or (tag.strides[-2] and shape[-2] > 1) or out.ndim != len(shape):
            return None
        own = [d for d in range(len(shape)) if tag.strides[d]]
        return tag if all(out.shape[d] == shape[d] for d in own) else None

    def _gathered(self, tag: UnitTag, shape: tuple[int, ...], out: Tensor, dim: Any) -> UnitTag | None:
        """The tag after positions (the nodes of a graph) were chosen or summed by their index along one dimension."""
        if not isinstance(dim, int) or out.ndim != len(shape) or tag.strides[dim % len(shape)]:
            return None
        own = [d for d in range(len(shape)) if tag.strides[d]]
        return tag if all(out.shape[d] == shape[d] for d in own) else None

    def _pools_positions(
        self,
        name: str,
        tag: UnitTag,
        shape: tuple[int, ...],
        out: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool:
        if tag.block != 1 or any(s and out.shape[d] != shape[d] for d, s in enumerate(tag.strides)):
            return False
        if name == "pad":
            widths = list(args[1] if len(args) > 1 else kwargs["pad"])
            padded = {len(shape) - 1 - i // 2 for i, width in enumerate(widths) if width}
            return not any(tag.strides[d] for d in padded)
        last = max((d for d, s in enumerate(tag.strides) if s), default=0)
        # pooling goes over the last dimensions: as many as its name says, or all behind the channels
        spatial = next((int(n) for n in "123" if f"pool{n}d" in name), len(shape) - 2)
        return last < len(shape) - spatial

    def _normalise(self, tag: UnitTag, others: list[Tensor], shape: tuple[int, ...]) -> None:
        norms = {self._norms[id(x)] for x in others if id(x) in self._norms}
        layer = self.graph[tag.producer]
        for norm, module in norms:
            weight = getattr(module, "weight", None)
            own = module.running_mean if isinstance(getattr(module, "running_mean", None), Tensor) else weight
            whole = covered(tag, shape) == (0, layer.units)
            if own is None or own.shape != (layer.units,) or tag.block != 1 or not whole:
                self._leave(tag, f"{norm} does not keep its units apart")
            elif norm not in layer.norms:
                layer.norms.append(norm)

    def _tell(self, tag: UnitTag | _Mixed) -> None:
        if isinstance(tag, _Mixed) or (kept := tag.activation) is None or kept.tensor is None:
            return
        if self._on_activation is not None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                values = samples_of(kept, self.graph[tag.producer].units)
                if values is not None:
                    self._on_activation(tag.producer, values)
        kept.tensor = None  # told once, and memory is not held up

    def _leave_all(self, before: list[tuple[Tensor, Any]], reason: str) -> None:
        for _, tag in before:
            self._leave(tag, reason)

    def _leave(self, tag: UnitTag | _Mixed, reason: str) -> None:
        self._tell(tag)  # who knows better may name the consumers
        for producer in _producers(tag):
            layer = self.graph[producer]
            layer.opaque = layer.opaque or reason
            for other in self.graph.values():  # what was cut from it, or made of it, is not closed either
                if other is not layer and layer.cut and _within(other, producer, layer):
                    other.opaque = other.opaque or reason


_TURNED = (
    torch.Tensor.T.__get__,  # type: ignore[attr-defined]
    torch.Tensor.mT.__get__,  # type: ignore[attr-defined]
    torch.Tensor.H.__get__,  # type: ignore[attr-defined]
    torch.Tensor.mH.__get__,  # type: ignore[attr-defined]
)


def _sources(key: str, layer: UnitLayer) -> list[list[Any]]:
    return [list(part) for part in layer.parts] or [[key, 0, None]]


def _within(other: UnitLayer, producer: str, layer: UnitLayer) -> bool:
    names = {name for name, *_ in _sources(producer, layer)}
    return any(part[0] in names for part in other.parts)


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
