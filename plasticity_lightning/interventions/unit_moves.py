"""Where the units of a layer stand in a tensor, and where they stand after one of torch's functions.

`UnitTag` numbers the entries of a producer's output by strides, as a view of 0, 1, 2, ... would: an index along a
dimension with stride s moves s entries on, a dimension with stride 0 (batch, positions) stays with its unit. So a function
that only rearranges is asked itself: it runs on such a view on the meta device, in whatever form it was called, and the
strides of the result are the answer. Nothing here parses a function's arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Activation", "UnitTag", "covered", "merged", "reduced", "reshaped", "samples_of", "substituted", "viewed"]


@dataclass(eq=False)
class Activation:
    """What a nonlinearity gave, kept until a layer reads it.

    Args:
        tensor: the values; None once they have been handed out.
        tag: where the units stand in it.
        units: of the producer, all of which are in it.
        first: the first of the units that are meant, where a later cut takes a part.
    """

    tensor: Tensor | None
    tag: UnitTag
    units: int
    first: int = 0


@dataclass(frozen=True)
class UnitTag:
    """The units of one producer in a tensor.

    Args:
        producer: key of its units in the graph.
        strides: entries to move on, for one step along each dimension of the tensor; 0 stays with the unit.
        start: entry at index 0.
        block: consecutive entries that belong to one unit (the positions that a flatten took in).
        activation: what the last nonlinearity on the way gave, or None before one.
    """

    producer: str
    strides: tuple[int, ...]
    start: int = 0
    block: int = 1
    activation: Activation | None = None

    @property
    def layout(self) -> tuple[tuple[int, ...], int, int]:
        """Equal for tensors whose units stand in the same places."""
        return self.strides, self.start, self.block


def covered(tag: UnitTag, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(first entry, number of entries) of a tensor of that shape, or None if these are not a gapless range, each once."""
    number = 1
    for stride, size in sorted((s, n) for s, n in zip(tag.strides, shape, strict=True) if s and n > 1):
        if stride != number:
            return None
        number *= size
    return tag.start, number


def substituted(tree: Any, old: Tensor, new: Tensor) -> Any:
    """Arguments with one tensor in place of another."""
    if tree is old:
        return new
    if isinstance(tree, tuple | list):
        return type(tree)(substituted(branch, old, new) for branch in tree)
    if isinstance(tree, dict):
        return {key: substituted(branch, old, new) for key, branch in tree.items()}
    return tree


def viewed(tag: UnitTag, shape: tuple[int, ...], run: Callable[[Tensor], Any]) -> list[UnitTag | None]:
    """Tags of the outputs of a function that rearranges, cuts or expands without reading values.

    Args:
        tag: of its input.
        shape: of its input, before the call.
        run: calls the function with its own arguments, on another tensor in place of the input.

    Returns:
        One tag an output; None for one that is no view of its input.
    """
    entries = _entries(tag, shape)
    outputs = _answer(run, entries)
    found: list[UnitTag | None] = []
    for out in outputs if isinstance(outputs, tuple | list) else [outputs]:
        if not isinstance(out, Tensor):
            return [None]
        same = out.untyped_storage()._cdata == entries.untyped_storage()._cdata
        found.append(_read(tag, out) if same else None)
    return found


def reshaped(tag: UnitTag, old: tuple[int, ...], new: tuple[int, ...]) -> UnitTag | None:
    """The tag after a change of shape: units may be split over dimensions and take in the positions behind them."""
    behind = len(old)  # positions right behind the last dimension of units: a flatten takes some of them in
    while behind and (tag.strides[behind - 1] == 0 or old[behind - 1] == 1):
        behind -= 1
    for end in range(behind, len(old) + 1):
        taken = math.prod(old[behind:end])
        inner = tuple(math.prod(old[d + 1 : end]) if behind <= d < end else 0 for d in range(len(old)))
        strides = tuple(s * taken + i for s, i in zip(tag.strides, inner, strict=True))
        finer = replace(tag, strides=strides, start=tag.start * taken, block=tag.block * taken)
        try:
            out = _entries(finer, old).view(new)
        except RuntimeError:
            continue
        return _read(finer, out)
    return None


def reduced(tag: UnitTag, shape: tuple[int, ...], run: Callable[[Tensor], Any]) -> UnitTag | None:
    """The tag after a reduction over dimensions; None if it goes over units, or returns no single tensor."""
    # sizes that tell the dimensions apart in the result
    sizes = tuple(range(2, 2 + len(shape)))
    out = _answer(run, torch.empty(sizes, device="meta"))
    if not isinstance(out, Tensor):
        return None
    kept = [sizes.index(size) if size in sizes else None for size in out.shape]
    if any(stride and d not in kept for d, stride in enumerate(tag.strides) if shape[d] > 1):
        return None
    return replace(tag, strides=tuple(0 if d is None else tag.strides[d] for d in kept))


def merged(tags: list[UnitTag], shapes: list[tuple[int, ...]], shape: tuple[int, ...]) -> UnitTag | None:
    """The tag of an entrywise function of several tensors, all of one producer in one layout; else None."""
    first = tags[0]
    alike = all(t.producer == first.producer and t.layout == first.layout for t in tags)
    return first if alike and all(s == shape for s in shapes) else None


def samples_of(activation: Activation, units: int) -> Tensor | None:
    """The values of `units` units as [S, units], in the layout of `measures.samples_by_units`; None if some are missing."""
    assert activation.tensor is not None
    tensor, tag = activation.tensor.detach(), activation.tag
    if covered(tag, tuple(tensor.shape)) != (0, activation.units * tag.block):
        return None
    own = [d for d in range(tensor.ndim) if tag.strides[d] and tensor.shape[d] > 1]
    own.sort(key=lambda d: -tag.strides[d])
    entries = tensor.permute([d for d in range(tensor.ndim) if d not in own] + own)
    entries = entries.reshape(-1, activation.units, tag.block)
    values = entries.movedim(-1, -2).reshape(-1, activation.units)
    return values[:, activation.first : activation.first + units]


def _entries(tag: UnitTag, shape: tuple[int, ...]) -> Tensor:
    last = tag.start + sum((size - 1) * stride for size, stride in zip(shape, tag.strides, strict=True))
    return torch.empty(max(last + 1, 1), device="meta").as_strided(shape, tag.strides, tag.start)


def _read(tag: UnitTag, out: Tensor) -> UnitTag:
    # the stride of a dimension of size 1 says nothing
    strides = tuple(s if n > 1 else 0 for s, n in zip(out.stride(), out.shape, strict=True))
    return replace(tag, strides=strides, start=int(out.storage_offset()))


def _answer(run: Callable[[Tensor], Any], stand_in: Tensor) -> Any:
    try:
        with torch._C.DisableTorchFunction():  # no other mode sees what is run only to be asked
            return run(stand_in)
    except (RuntimeError, TypeError, NotImplementedError, IndexError):
        return None  # a form that the meta device does not have: the units are lost from sight
