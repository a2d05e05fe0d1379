"""How a measure of activations reduces over several calls, batches and processes.

Most are means of their values, or shares of entries whose counts add up; these need nothing. A measure of the whole
batch (units dead in all of it, the rank of its features) is a function of statistics that add up or are gathered:
`accumulated` states it once, as an update (activation -> statistics) and a finish (statistics -> value), and
`function(activation) == finish(update(activation))` (`compute(update(x))` of torchmetrics).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor

__all__ = ["Accumulation", "accumulated", "accumulation_of"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Accumulation:
    """Statistics that several measures may share.

    Args:
        update: activation [B, units, ...] -> tuple of tensors, the statistics of one call.
        gather: "sum": statistics of several calls add up; "cat": they are concatenated along dimension 0.
        prepare: what all measures on these statistics compute first, such as a decomposition; given the statistics.
        finish: the result of `prepare` (without it the statistics), and the measure's options -> value.
    """

    update: Callable[[Tensor], tuple[Tensor, ...]]
    gather: Literal["sum", "cat"]
    prepare: Callable[..., Any] | None
    finish: Callable[..., Tensor]


def accumulated(
    update: Callable[[Tensor], tuple[Tensor, ...]],
    gather: Literal["sum", "cat"],
    finish: Callable[..., Tensor] | None = None,
    prepare: Callable[..., Any] | None = None,
) -> Callable[[Function], Function]:
    """Decorate a measure with the way in which it accumulates; without `finish` the function itself finishes.

    The statement belongs to the function: another function put in its place reduces in its own way.
    """

    def attach(function: Function) -> Function:
        function.__accumulation__ = Accumulation(update, gather, prepare, finish or function)  # type: ignore[attr-defined]
        return function

    return attach


def accumulation_of(function: Callable[..., Any]) -> Accumulation | None:
    """The accumulation that a measure states, or None."""
    return getattr(function, "__accumulation__", None)
