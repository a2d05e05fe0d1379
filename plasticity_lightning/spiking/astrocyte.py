"""The astrocyte: one leaky integrator that watches the liquid and its input and sets the depression rate of STDP.

    A <- A + [ weight * (n_liquid - n_input) + bias - A ] / tau

n_liquid and n_input are the numbers of liquid and of input-neuron spikes in this 1 ms step. A is not clamped: where the input outweighs
the liquid for long, A turns negative and depression becomes potentiation. Fixed point: bias + weight * (n_liquid - n_input).

Source: Ivanov & Michmizos 2021 and their published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

__all__ = ["Astrocyte", "astrocyte_step"]


@dataclass(frozen=True)
class Astrocyte:
    """Parameters of one astrocyte; the state A is a scalar per sample that the engine or module carries.

    Args:
        weight: coupling to each spike (`w_astro`), at least 0: 0.015 for 1000 neurons, 0.0075 for 8000.
        bias: A at rest and at the start of each sample (`b_astro`), at least 0.
        tau: time constant in ms, at least 1.
        density: fraction of liquid neurons and of input channels that the astrocyte senses, in (0, 1]. The weight is not rescaled.
        seed: of the random choice of sensed neurons, used where density < 1.

    Raises:
        ValueError: if an argument is outside its range.
    """

    weight: float = 0.015
    bias: float = 0.15
    tau: float = 100.0
    density: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} must be at least 0")
        if self.bias < 0:
            raise ValueError(f"bias={self.bias} must be at least 0: it is a learning rate at rest")
        if self.tau < 1:
            raise ValueError(f"tau={self.tau} must be at least 1 ms, the time step")
        if not 0 < self.density <= 1:
            raise ValueError(f"density={self.density} must lie in (0, 1]")

    def sensed(self, n_neurons: int, n_inputs: int) -> tuple[Tensor, Tensor]:
        """0/1 masks, uint8 [n_neurons] and [n_inputs]: ceil(density * count) of each, chosen at random from `seed`."""
        generator = torch.Generator().manual_seed(self.seed)
        masks = []
        for count in (n_neurons, n_inputs):
            mask = torch.zeros(count, dtype=torch.uint8)
            mask[torch.randperm(count, generator=generator)[: ceil(self.density * count)]] = 1
            masks.append(mask)
        return masks[0], masks[1]


def astrocyte_step(
    state: Tensor, n_liquid: Tensor, n_input: Tensor, weight: Tensor | float, bias: Tensor | float, tau: float
) -> Tensor:
    """A after one 1 ms step.

    Args:
        state: A, any shape (one value per sample).
        n_liquid: sensed liquid spikes of this step, broadcastable to `state`.
        n_input: sensed input-neuron spikes of this step.
        weight: coupling `w_astro`, number or tensor.
        bias: `b_astro`, number or tensor.
        tau: time constant in ms.
    """
    return state + (weight * (n_liquid - n_input) + bias - state) / tau
