"""Izhikevich neurons as SpikingJelly nodes, with parameters of their own for every neuron.

SpikingJelly's own `IzhikevichNode` takes numbers only. Where it can say the same (one set of parameters, one Euler step, no clamp) the nodes are
equal: its a0 = 0.04, v_rest = -82.66, v_c = -42.34 (the roots of the quadratic), tau = 1 / dt, tau_w = 1 / (a dt), its a = b and its b = d.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor

from plasticity_lightning.spiking.backends import Backend, BackendNode
from plasticity_lightning.spiking.fused import fused_capacitance, fused_izhikevich
from plasticity_lightning.spiking.izhikevich import (
    CapacitanceIzhikevich,
    Izhikevich,
    izhikevich_capacitance_step,
    izhikevich_step,
)

__all__ = ["CapacitanceIzhikevichNode", "IzhikevichNode"]


class _Node(BackendNode, ABC):
    """Parameters as buffers, states v and u that start at rest, and the choice of back end."""

    def __init__(
        self,
        parameters: dict[str, Tensor | float],
        surrogate_function: Callable[[Tensor], Tensor] | None,
        step_mode: str,
        backend: Backend,
    ) -> None:
        super().__init__()
        for name, value in parameters.items():
            value = torch.as_tensor(value, dtype=torch.get_default_dtype())
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite")
            self.register_buffer(name, value)
        self._names = tuple(parameters)
        self.surrogate_function = surrogate_function or surrogate.Sigmoid()
        self.step_mode = step_mode
        self.backend = backend
        self.register_memory("v", None)
        self.register_memory("u", None)

    def _require(self, name: str, holds: Tensor, what: str) -> None:
        if not bool(holds.all()):
            raise ValueError(f"{name} must be {what} in every neuron, got {getattr(self, name).tolist()}")

    def _buffers_in_order(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names]

    @abstractmethod
    def _at_rest(self) -> tuple[Tensor, Tensor]: ...

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """Neurons at rest, of the input's shape, where a reset left none."""
        like = inputs[0][0] if step_mode == "m" else inputs[0]
        shapes = [tuple(value.shape) for value in self._buffers_in_order()]
        for shape in shapes:
            span = tuple(like.shape[like.ndim - len(shape) :])
            if len(span) != len(shape) or any(p not in (1, x) for p, x in zip(shape, span, strict=True)):
                raise ValueError(
                    f"parameters of shapes {shapes} do not fit an input of shape {tuple(like.shape)} a step"
                )
        rest = self._at_rest()
        return tuple(
            value if isinstance(value, Tensor) else start.to(like).expand(like.shape).clone()
            for value, start in zip(states, rest, strict=True)
        )

    def _cells(self, shape: torch.Size) -> Tensor:
        """Parameters [P, F] of the fused kernels; F spans the last axes of `shape` over which any parameter varies."""
        buffers = self._buffers_in_order()
        axes = max(value.ndim for value in buffers)
        span = shape[len(shape) - axes :]
        return torch.stack([value.expand(span).reshape(-1) for value in buffers])

    def single_step_functional_forward(self, inputs: tuple, states: tuple, **kwargs: object) -> tuple[tuple, tuple]:
        """Spikes [B, *] from an input current [B, *]."""
        if self.backend == "triton":
            (spikes,), states = self.multi_step_functional_forward((inputs[0][None],), states)
            return (spikes[0],), states
        spikes, v, u = self._step(states[0], states[1], inputs[0] + self.bias)
        return (spikes,), (v, u)

    def multi_step_functional_forward(self, inputs: tuple, states: tuple, **kwargs: object) -> tuple[tuple, tuple]:
        """Spikes [T, B, *] from input currents [T, B, *]."""
        if self.backend == "torch":
            return super().multi_step_functional_forward(inputs, states, **kwargs)
        self.check_fused(inputs[0])
        spikes, v, u = self._fused(inputs[0], states[0], states[1], self._cells(inputs[0].shape[1:]))
        return (spikes,), (v, u)

    @abstractmethod
    def _step(self, v: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    @abstractmethod
    def _fused(self, x: Tensor, v: Tensor, u: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


class IzhikevichNode(_Node):
    """SpikingJelly node of `izhikevich_step`, the form of 2003, with states v and u; x is a current, in the paper's units.

    Args:
        a: 1 / time constant of recovery, per ms, positive; a number or a tensor that broadcasts against one step of the input, as b to bias.
        b: sensitivity of recovery.
        c: reset potential in mV, below 30.
        d: jump of u at a spike.
        bias: constant input current.
        dt: time step in ms, positive.
        substeps: Euler steps of v within dt, 1 or 2.
        clamp: hold v at 30 mV once it is reached.
        surrogate_function: derivative of the spike in the backward pass; SpikingJelly's sigmoid by default.
        step_mode: "s" for one step, input [B, *]; "m" for a sequence, input [T, B, *].
        backend: "torch" or "triton".

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        a: Tensor | float = 0.02,
        b: Tensor | float = 0.2,
        c: Tensor | float = -65.0,
        d: Tensor | float = 8.0,
        bias: Tensor | float = 0.0,
        *,
        dt: float = 1.0,
        substeps: int = 2,
        clamp: bool = True,
        surrogate_function: Callable[[Tensor], Tensor] | None = None,
        step_mode: str = "s",
        backend: Backend = "torch",
    ) -> None:
        super().__init__({"a": a, "b": b, "c": c, "d": d, "bias": bias}, surrogate_function, step_mode, backend)
        if not dt > 0:
            raise ValueError(f"dt={dt} must be positive, in ms")
        if substeps not in (1, 2):
            raise ValueError(f"substeps={substeps} must be 1 or 2")
        self._require("a", self.a > 0, "positive")
        self._require("c", self.c < 30, "below 30 mV")
        self.dt, self.substeps, self.clamp = dt, substeps, clamp

    @classmethod
    def of(cls, cells: Izhikevich, **arguments: Any) -> IzhikevichNode:
        """The node of these neurons, parameters [..., N]."""
        return cls(cells.a, cells.b, cells.v_reset, cells.d, cells.bias, dt=cells.dt, **arguments)

    def _at_rest(self) -> tuple[Tensor, Tensor]:
        return torch.full_like(self.b, -65.0), self.b * -65.0

    def _step(self, v: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return izhikevich_step(
            v,
            u,
            x,
            a=self.a,
            b=self.b,
            c=self.c,
            d=self.d,
            dt=self.dt,
            substeps=self.substeps,
            clamp=self.clamp,
            spike_function=self.surrogate_function,
        )

    def _fused(self, x: Tensor, v: Tensor, u: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return fused_izhikevich(x, v, u, cells, self.dt, self.substeps, self.clamp, self.surrogate_function)

    def extra_repr(self) -> str:
        """What differs between such nodes, as SpikingJelly's nodes show it."""
        return f"dt={self.dt}, substeps={self.substeps}, clamp={self.clamp}, step_mode={self.step_mode}, backend={self.backend}"


class CapacitanceIzhikevichNode(_Node):
    """SpikingJelly node of `izhikevich_capacitance_step`, with states v (mV) and u (pA); x is a current in pA.

    Args:
        capacitance: pF, positive; a number or a tensor that broadcasts against one step of the input, as all up to bias. Defaults are
            those of Nicola & Clopath's sine.
        k: pA / mV^2.
        v_rest: mV.
        v_threshold: mV.
        v_peak: mV, above v_reset.
        v_reset: mV.
        a: per ms, positive.
        b: nS.
        d: pA.
        bias: pA.
        dt: time step in ms, positive.
        surrogate_function: as `IzhikevichNode`'s, as are step_mode and backend.
        step_mode: see there.
        backend: see there.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        capacitance: Tensor | float = 250.0,
        k: Tensor | float = 2.5,
        v_rest: Tensor | float = -60.0,
        v_threshold: Tensor | float = -19.2,
        v_peak: Tensor | float = 30.0,
        v_reset: Tensor | float = -65.0,
        a: Tensor | float = 0.01,
        b: Tensor | float = -2.0,
        d: Tensor | float = 200.0,
        bias: Tensor | float = 1000.0,
        *,
        dt: float = 0.04,
        surrogate_function: Callable[[Tensor], Tensor] | None = None,
        step_mode: str = "s",
        backend: Backend = "torch",
    ) -> None:
        parameters = {
            "capacitance": capacitance,
            "k": k,
            "v_rest": v_rest,
            "v_threshold": v_threshold,
            "v_peak": v_peak,
            "v_reset": v_reset,
            "a": a,
            "b": b,
            "d": d,
            "bias": bias,
        }
        super().__init__(parameters, surrogate_function, step_mode, backend)
        if not dt > 0:
            raise ValueError(f"dt={dt} must be positive, in ms")
        for name in ("capacitance", "k", "a"):
            self._require(name, getattr(self, name) > 0, "positive")
        self._require("v_peak", self.v_peak > self.v_reset, "above v_reset")
        self.dt = dt

    @classmethod
    def of(cls, cells: CapacitanceIzhikevich, **arguments: Any) -> CapacitanceIzhikevichNode:
        """The node of these neurons, parameters [..., N]."""
        return cls(*cells.tensors().values(), dt=cells.dt, **arguments)

    def _at_rest(self) -> tuple[Tensor, Tensor]:
        return self.v_rest, torch.zeros_like(self.v_rest)

    def _step(self, v: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parameters: dict[str, Any] = {name: getattr(self, name) for name in self._names if name != "bias"}
        return izhikevich_capacitance_step(v, u, x, **parameters, dt=self.dt, spike_function=self.surrogate_function)

    def _fused(self, x: Tensor, v: Tensor, u: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return fused_capacitance(x, v, u, cells, self.dt, self.surrogate_function)

    def extra_repr(self) -> str:
        """What differs between such nodes, as SpikingJelly's nodes show it."""
        return f"dt={self.dt}, step_mode={self.step_mode}, backend={self.backend}"
