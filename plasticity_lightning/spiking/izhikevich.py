"""Izhikevich neurons with parameters of their own for every cell: the form of 2003 and the capacitance form.

    2003 (dt = 1 ms):  v' = 0.04 v^2 + 5 v + 140 - u + I,          u' = a (b v - u);          v >= 30: v <- c, u <- u + d
    capacitance form:  C v' = k (v - v_r)(v - v_t) - u + I,        u' = a (b (v - v_r) - u);  v >= v_peak: v <- v_reset, u <- u + d

The form of 2003 takes v in two half steps, clamped at 30 after each, and skips the second once 30 is reached; then u once, from the new v.
The capacitance form is one Euler step, both derivatives from the old v and u. Every step function is plain arithmetic in a fixed order: compiled
engines restate it and give the same bits. Sources: Izhikevich 2003; Nicola & Clopath 2017, ModelDB 190565, `IZFORCESINE.m`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

__all__ = [
    "V_PEAK",
    "CapacitanceIzhikevich",
    "Izhikevich",
    "izhikevich_capacitance_step",
    "izhikevich_step",
]

V_PEAK = 30.0  # the cut-off of the form of 2003 is part of its polynomial's scale, not a parameter


def izhikevich_step(
    v: Tensor,
    u: Tensor,
    x: Tensor,
    *,
    a: Tensor | float,
    b: Tensor | float,
    c: Tensor | float,
    d: Tensor | float,
    dt: float = 1.0,
    substeps: int = 2,
    clamp: bool = True,
    spike_function: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of dt ms of the form of 2003.

    Args:
        v: membrane potential in mV, [..., N].
        u: recovery, same shape.
        x: input current of this step, bias included, same shape.
        a: 1 / time constant of recovery, per ms, scalar or [N]; so are b (sensitivity), c (reset, mV) and d (jump of u).
        b: see a.
        c: see a.
        d: see a.
        dt: time step in ms, positive.
        substeps: Euler steps of v within dt, at least 1.
        clamp: hold v at 30 once it is reached. Gradients pass as if it were not there: at the cut-off the surrogate's derivative is largest.
        spike_function: 0/1 of v - 30, e.g. a surrogate function; a plain step by default.

    Returns:
        (spikes in v's dtype, v, u) after the step. Neither the reset of v nor the jump of u passes gradients to the spike: through the
        jump they would grow about tenfold with every spike.
    """
    h = dt / substeps
    for k in range(substeps):
        after = v + h * (0.04 * v * v + 5.0 * v + 140.0 - u + x)
        if clamp:
            after = _HeldBelow.apply(after, V_PEAK)
            after = torch.where(v >= V_PEAK, v, after) if k else after
        v = after
    u = u + dt * a * (b * v - u)
    return _fire(v, u, V_PEAK, c, d, spike_function)


def izhikevich_capacitance_step(
    v: Tensor,
    u: Tensor,
    x: Tensor,
    *,
    capacitance: Tensor | float,
    k: Tensor | float,
    v_rest: Tensor | float,
    v_threshold: Tensor | float,
    v_peak: Tensor | float,
    v_reset: Tensor | float,
    a: Tensor | float,
    b: Tensor | float,
    d: Tensor | float,
    dt: float = 0.04,
    spike_function: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of dt ms of the capacitance form.

    Args:
        v: membrane potential in mV, [..., N].
        u: recovery current in pA, same shape.
        x: input current in pA, bias included, same shape.
        capacitance: in pF, scalar or [N], as all that follow.
        k: gain of the quadratic, pA / mV^2.
        v_rest: resting potential, mV.
        v_threshold: instantaneous threshold, mV.
        v_peak: cut-off of a spike, mV.
        v_reset: potential after a spike, mV.
        a: 1 / time constant of recovery, per ms.
        b: sensitivity of recovery, nS.
        d: jump of u at a spike, pA.
        dt: time step in ms.
        spike_function: 0/1 of v - v_peak, e.g. a surrogate function; a plain step by default.

    Returns:
        (spikes in v's dtype, v, u) after the step.
    """
    new_v = v + dt * (k * (v - v_rest) * (v - v_threshold) - u + x) / capacitance
    new_u = u + dt * (a * (b * (v - v_rest) - u))
    return _fire(new_v, new_u, v_peak, v_reset, d, spike_function)


def _fire(
    v: Tensor,
    u: Tensor,
    v_peak: Tensor | float,
    v_reset: Tensor | float,
    d: Tensor | float,
    spike_function: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    above = v - v_peak
    spikes = (above >= 0).to(v.dtype) if spike_function is None else spike_function(above)
    fired = above >= 0
    return spikes, torch.where(fired, v_reset, v), torch.where(fired, u + d, u)


class _HeldBelow(torch.autograd.Function):
    """min(v, peak), with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, peak: float) -> Tensor:
        return v.clamp(max=peak)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Cells:
    """What both kinds of parameters share: float64 tensors of one shape [L, N] (or [N]), checked."""

    dt: float

    def __post_init__(self) -> None:
        shape = self.v_reset.shape  # type: ignore[attr-defined]
        for name, value in self.tensors().items():
            if value.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, v_reset {tuple(shape)}: one value a neuron each"
                )
            if value.dtype != torch.float64:
                raise ValueError(f"{name} must be float64, got {value.dtype}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite in every neuron")

    def tensors(self) -> dict[str, Tensor]:
        """Field name -> tensor, in the order of the fields."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "dt"}  # type: ignore[arg-type]

    def with_tensors(self, tensors: dict[str, Tensor]) -> Self:
        """The same kind of neurons with other parameters, by field name."""
        changes: dict[str, Any] = dict(tensors)
        return replace(self, **changes)  # type: ignore[type-var]


@dataclass(frozen=True)
class Izhikevich(_Cells):
    """Parameters of the form of 2003, each float64 [..., N].

    Args:
        a: 1 / time constant of recovery, per ms, positive.
        b: sensitivity of recovery.
        v_reset: c, reset potential in mV, below 30.
        d: jump of u at a spike.
        bias: constant input current.

    Raises:
        ValueError: if shapes or types disagree, or a value is not finite or outside its range.
    """

    a: Tensor = field(repr=False)
    b: Tensor = field(repr=False)
    v_reset: Tensor = field(repr=False)
    d: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    dt = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not bool((self.a > 0).all()):
            raise ValueError(f"a must be positive (per ms), its smallest value is {float(self.a.min())}")
        if not bool((self.v_reset < V_PEAK).all()):
            raise ValueError(f"v_reset must lie below {V_PEAK} mV, its largest value is {float(self.v_reset.max())}")

    def step(self, v: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`izhikevich_step` of these neurons; x without the bias."""
        return izhikevich_step(v, u, x, a=self.a, b=self.b, c=self.v_reset, d=self.d)

    def at_rest(self) -> tuple[Tensor, Tensor]:
        """Potential -65 mV and u = b v, both [..., N]."""
        v = torch.full_like(self.b, -65.0)
        return v, self.b * v


@dataclass(frozen=True)
class CapacitanceIzhikevich(_Cells):
    """Parameters of the capacitance form, each float64 [..., N].

    Args:
        capacitance: pF, positive.
        k: pA / mV^2, positive.
        v_rest: mV.
        v_threshold: mV.
        v_peak: mV, above v_reset.
        v_reset: mV.
        a: per ms, positive.
        b: nS.
        d: pA.
        bias: constant input current, pA.
        dt: time step in ms, positive.

    Raises:
        ValueError: if shapes or types disagree, or a value is not finite or outside its range.
    """

    capacitance: Tensor = field(repr=False)
    k: Tensor = field(repr=False)
    v_rest: Tensor = field(repr=False)
    v_threshold: Tensor = field(repr=False)
    v_peak: Tensor = field(repr=False)
    v_reset: Tensor = field(repr=False)
    a: Tensor = field(repr=False)
    b: Tensor = field(repr=False)
    d: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    dt: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dt > 0:
            raise ValueError(f"dt={self.dt} must be positive, in ms")
        for name in ("capacitance", "k", "a"):
            if not bool((getattr(self, name) > 0).all()):
                raise ValueError(f"{name} must be positive, its smallest value is {float(getattr(self, name).min())}")
        if not bool((self.v_peak > self.v_reset).all()):
            raise ValueError("v_peak must lie above v_reset in every neuron")

    def step(self, v: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`izhikevich_capacitance_step` of these neurons; x without the bias."""
        parameters: dict[str, Any] = {name: value for name, value in self.tensors().items() if name != "bias"}
        return izhikevich_capacitance_step(v, u, x, **parameters, dt=self.dt)

    def at_rest(self) -> tuple[Tensor, Tensor]:
        """Potential v_rest and u = 0, both [..., N]."""
        return self.v_rest.clone(), torch.zeros_like(self.v_rest)
