"""Leaky integrate-and-fire neurons with a refractory counter, as a SpikingJelly node.

One step charges v <- v + x - v / tau, fires where v >= v_threshold and the counter has run out, resets, and counts down. While refractory
the neuron keeps integrating, so that a pulse arriving in the dead time causes a late spike instead of being lost. With refractory = 0 this
is SpikingJelly's own `LIFNode(decay_input=False, v_reset=0)`.

Source: Ivanov & Michmizos 2021, neuron of the published code, its steps regrouped as charge, fire, reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor

from plasticity_lightning.spiking.backends import Backend, BackendNode
from plasticity_lightning.spiking.fused import fused_lif

__all__ = ["RefractoryLIFNode", "charge", "lif_step"]


def charge(v: Any, x: Any, tau_mem: float) -> Any:
    """Membrane potential after one 1 ms step of input x and leak, before the spike test; numbers or tensors.

    Plain arithmetic, so that the compiled engine compiles this very function.
    """
    return v + (x - v / tau_mem)


def lif_step(
    v: Tensor,
    rest: Tensor,
    x: Tensor,
    *,
    tau_mem: float = 64.0,
    v_threshold: float = 20.0,
    v_reset: float = 0.0,
    refractory: int = 2,
    spike_function: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One 1 ms step of a refractory LIF neuron.

    Args:
        v: membrane potential, any shape.
        rest: refractory counter of the same shape; a spike is allowed where it is at most 0.
        x: input of this step, in units of v.
        tau_mem: membrane time constant in ms, at least 1.
        v_threshold: firing threshold.
        v_reset: potential after a spike.
        refractory: steps without a spike after each one.
        spike_function: 0/1 of v - v_threshold, e.g. a surrogate function; a plain step by default.

    Returns:
        (spikes in v's dtype, v, rest) after the step.
    """
    v = charge(v, x, tau_mem)
    above = (v >= v_threshold).to(v.dtype) if spike_function is None else spike_function(v - v_threshold)
    spikes = above * (rest <= 0).to(v.dtype)
    fired = spikes > 0
    return spikes, torch.where(fired, v_reset, v), torch.where(fired, refractory, rest - 1)


class RefractoryLIFNode(BackendNode):
    """SpikingJelly node of `lif_step`, with states `v` and `rest`.

    Args:
        tau: membrane time constant in ms, at least 1.
        v_threshold: firing threshold, above v_reset.
        v_reset: potential after a spike.
        refractory: steps without a spike after each one, at least 0.
        surrogate_function: derivative of the spike in the backward pass; SpikingJelly's sigmoid by default.
        step_mode: "s" for one step, input [B, *]; "m" for a sequence, input [T, B, *].
        backend: "torch" or "triton".

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        tau: float = 64.0,
        v_threshold: float = 20.0,
        v_reset: float = 0.0,
        refractory: int = 2,
        surrogate_function: Callable[[Tensor], Tensor] | None = None,
        step_mode: str = "s",
        backend: Backend = "torch",
    ) -> None:
        super().__init__()
        if tau < 1:
            raise ValueError(f"tau={tau} must be at least 1 ms, the time step")
        if v_threshold <= v_reset:
            raise ValueError(f"v_threshold={v_threshold} must lie above v_reset={v_reset}")
        if refractory < 0:
            raise ValueError(f"refractory={refractory} must be at least 0 steps")
        self.tau, self.v_threshold, self.v_reset, self.refractory = tau, v_threshold, v_reset, refractory
        self.surrogate_function = surrogate_function or surrogate.Sigmoid()
        self.step_mode = step_mode
        self.backend = backend
        self.register_memory("v", 0.0)
        self.register_memory("rest", 0)

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """Turn the numbers of a fresh reset into tensors of the input's shape."""
        like = inputs[0][0] if step_mode == "m" else inputs[0]
        v, rest = states
        if not isinstance(v, Tensor):
            v = torch.full_like(like, v)
        if not isinstance(rest, Tensor):
            rest = torch.full_like(like, rest, dtype=torch.int64)
        return v, rest

    def single_step_functional_forward(self, inputs: tuple, states: tuple, **kwargs: object) -> tuple[tuple, tuple]:
        """Spikes [B, *] from an input current [B, *]."""
        if self.backend == "triton":
            (spikes,), states = self.multi_step_functional_forward((inputs[0][None],), states)
            return (spikes[0],), states
        spikes, v, rest = lif_step(
            states[0],
            states[1],
            inputs[0],
            tau_mem=self.tau,
            v_threshold=self.v_threshold,
            v_reset=self.v_reset,
            refractory=self.refractory,
            spike_function=self.surrogate_function,
        )
        return (spikes,), (v, rest)

    def multi_step_functional_forward(self, inputs: tuple, states: tuple, **kwargs: object) -> tuple[tuple, tuple]:
        """Spikes [T, B, *] from input currents [T, B, *]."""
        if self.backend == "torch":
            return super().multi_step_functional_forward(inputs, states, **kwargs)
        self.check_fused(inputs[0])
        spikes, v, rest = fused_lif(
            inputs[0],
            states[0],
            states[1],
            self.tau,
            self.v_threshold,
            self.v_reset,
            self.refractory,
            self.surrogate_function,
        )
        return (spikes,), (v, rest)

    def extra_repr(self) -> str:
        """The parameters, as SpikingJelly's nodes show them."""
        neuron = f"tau={self.tau}, v_threshold={self.v_threshold}, v_reset={self.v_reset}, refractory={self.refractory}"
        return f"{neuron}, step_mode={self.step_mode}, backend={self.backend}"
