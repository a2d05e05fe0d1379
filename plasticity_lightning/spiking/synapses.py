"""Saturating synapse: the current factor depends only on the time since the last presynaptic spike.

c = exp(-t / tau) / tau with t in ms since that spike. A new spike sets c to 1 / tau instead of adding to it, so one value per presynaptic
neuron serves all of its synapses. Source: Ivanov & Michmizos 2021, synapse of the published code (clock starting at 20, capped at 100).
"""

from __future__ import annotations

import torch
from spikingjelly.activation_based import base
from torch import Tensor

__all__ = ["SaturatingSynapse", "saturating_synapse_step"]


def saturating_synapse_step(
    clock: Tensor, spikes: Tensor, tau: float = 1.0, cap: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Current factor of this step, and the clock for the next.

    Args:
        clock: ms since the last presynaptic spike, any shape.
        spikes: 0/1 of this step, same shape.
        tau: synaptic time constant in ms, positive.
        cap: largest value of the clock.

    Returns:
        (current factor c, clock).
    """
    clock = torch.where(spikes > 0, 0.0, clock)
    return torch.exp(-clock / tau) / tau, (clock + 1.0).clamp(max=cap)


class SaturatingSynapse(base.MemoryModule):
    """SpikingJelly module of `saturating_synapse_step`, with the clock as its state.

    Args:
        tau: synaptic time constant in ms, positive.
        start: clock after a reset, in ms.
        cap: largest value of the clock, in ms.
        step_mode: "s" for one step, input [B, *]; "m" for a sequence, input [T, B, *].

    Raises:
        ValueError: if tau is not positive.
    """

    def __init__(self, tau: float = 1.0, start: float = 20.0, cap: float = 100.0, step_mode: str = "s") -> None:
        super().__init__()
        if tau <= 0:
            raise ValueError(f"tau={tau} must be positive")
        self.tau, self.cap = tau, cap
        self.step_mode = step_mode
        self.register_memory("clock", float(start))

    def materialize_states(self, inputs: tuple, states: tuple, step_mode: str) -> tuple:
        """Turn the number of a fresh reset into a tensor of the input's shape."""
        like = inputs[0][0] if step_mode == "m" else inputs[0]
        return (states[0] if isinstance(states[0], Tensor) else torch.full_like(like, states[0]),)

    def single_step_functional_forward(self, inputs: tuple, states: tuple, **kwargs: object) -> tuple[tuple, tuple]:
        """Current factor [B, *] from spikes [B, *]."""
        factor, clock = saturating_synapse_step(states[0], inputs[0], self.tau, self.cap)
        return (factor,), (clock,)

    def extra_repr(self) -> str:
        """The parameters, as SpikingJelly's nodes show them."""
        return f"tau={self.tau}, cap={self.cap}, step_mode={self.step_mode}"
