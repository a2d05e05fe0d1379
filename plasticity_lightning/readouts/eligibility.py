"""What a synapse remembers of its input until the error arrives: a lagged or low-passed copy of the presynaptic trace.

With `lag` the eligibility is the input as it was `delay` samples ago: an error that comes with an evoked response is
then charged to the activity before the event, so that the learned readout runs ahead of the event by the delay. One
or two poles (`exp1`, `exp2`) are the usual eligibility traces; a readout that learns through them undoes the filter
and comes late.

Shapes: x [..., N]; any leading dimensions (lanes). Source: an independent model, see docs/papers/prediction_object.md.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Eligibility", "EligibilityKind", "eligibility_state", "eligibility_step", "eligibility_traces"]

EligibilityKind = Literal["lag", "exp1", "exp2"]
_KINDS = ("lag", "exp1", "exp2")


class Eligibility(NamedTuple):
    """State of the memory: `lag` keeps the last `delay` inputs [..., delay, N], oldest first.

    `exp1` and `exp2` their one or two poles [..., 1 or 2, N].
    """

    kind: EligibilityKind
    delay: int
    memory: Tensor


def eligibility_state(x: Tensor, kind: EligibilityKind = "lag", delay: int = 12) -> Eligibility:
    """A memory that has seen nothing but zeros.

    Args:
        x: an input [..., N]: gives shape, type and device.
        kind: "lag", "exp1" (one pole, time constant `delay`) or "exp2" (two poles, half of it each).
        delay: in samples, at least 0; 12 samples of 5 ms are 60 ms. 0 is no memory: the eligibility is the input.

    Raises:
        ValueError: for an unknown kind or a negative delay.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(_KINDS)}")
    if delay < 0:
        raise ValueError(f"delay={delay} must be at least 0 samples")
    rows = {"lag": delay, "exp1": 1, "exp2": 2}[kind]
    return Eligibility(kind, delay, x.new_zeros((*x.shape[:-1], rows, x.shape[-1])))


def eligibility_step(state: Eligibility, x: Tensor) -> tuple[Eligibility, Tensor]:
    """Take in one sample x [..., N]; returns the state after it and the eligibility [..., N] at it."""
    if state.delay == 0:
        return state, x
    memory = state.memory
    if state.kind == "lag":
        return state._replace(memory=torch.cat([memory[..., 1:, :], x[..., None, :]], -2)), memory[..., 0, :]
    poles = memory.shape[-2]
    keep = math.exp(-poles / state.delay)  # each pole has the time constant delay / poles
    levels = []
    for level in memory.unbind(-2):
        x = keep * level + (1 - keep) * x
        levels.append(x)
    return state._replace(memory=torch.stack(levels, -2)), x


def eligibility_traces(state: Eligibility, x: Tensor) -> tuple[Eligibility, Tensor]:
    """`eligibility_step` over the samples of x [..., T, N]: the state after them and the eligibilities [..., T, N]."""
    if state.delay == 0:
        return state, x
    if state.kind == "lag":  # a shift: no loop is needed
        longer = torch.cat([state.memory, x], -2)
        steps = x.shape[-2]
        return state._replace(memory=longer[..., steps:, :]), longer[..., :steps, :]
    traces = []
    for sample in x.unbind(-2):
        state, trace = eligibility_step(state, sample)
        traces.append(trace)
    return state, torch.stack(traces, -2)
