"""Populations of Izhikevich neurons: the heterogeneous ones of the prediction object, drawn, and Nicola & Clopath's.

Sources: Izhikevich 2003 (the spread of c and d, the inhibitory neurons); an independent model of Yamada & Chao's reservoir (the excitatory
recovery and the bias); Nicola & Clopath 2017, ModelDB 190565, `IZFORCESINE.m`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_lightning.spiking.izhikevich import CapacitanceIzhikevich, Izhikevich

__all__ = ["NeuronSpread", "draw_izhikevich", "nicola_clopath_neurons"]


@dataclass(frozen=True)
class NeuronSpread:
    """From which ranges the neurons of the prediction object's reservoir are drawn.

    The slow, widely spread recovery of the excitatory neurons is the clock; their bias lies just above threshold, so that they fire tonically
    and a cue resets their phase.

    Args:
        recovery: range of a of excitatory neurons, per ms, drawn log-uniformly.
        sensitivity: range of b of excitatory neurons, uniform.
        bias_excitatory: range of the excitatory bias, uniform.
        bias_inhibitory: range of the inhibitory bias, uniform.
        homogeneous: every neuron of a kind gets the middle of each range (an ablation: no clock remains).

    Raises:
        ValueError: if a range is reversed or `recovery` is not positive.
    """

    recovery: tuple[float, float] = (0.002, 0.02)
    sensitivity: tuple[float, float] = (0.18, 0.22)
    bias_excitatory: tuple[float, float] = (3.5, 5.0)
    bias_inhibitory: tuple[float, float] = (0.0, 2.0)
    homogeneous: bool = False

    def __post_init__(self) -> None:
        for name in ("recovery", "sensitivity", "bias_excitatory", "bias_inhibitory"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}={(low, high)} must be (low, high) with low <= high")
        if not self.recovery[0] > 0:
            raise ValueError(f"recovery={self.recovery} must be positive, per ms")


def draw_izhikevich(
    n_excitatory: int, n_inhibitory: int, *, spread: NeuronSpread | None = None, generator: torch.Generator
) -> Izhikevich:
    """Draw heterogeneous neurons of the form of 2003, excitatory ones first, float64 [N].

    Excitatory: a and b from `spread`, c = -65 + 15 q^2, d = 8 - 6 q^2. Inhibitory: a = 0.02 + 0.08 q, b = 0.25 - 0.05 q, c = -65, d = 2.
    q is uniform in [0, 1), one a neuron (Izhikevich 2003).

    Raises:
        ValueError: if a number of neurons is negative or there are none.
    """
    if n_excitatory < 0 or n_inhibitory < 0 or n_excitatory + n_inhibitory < 1:
        raise ValueError(
            f"n_excitatory={n_excitatory} and n_inhibitory={n_inhibitory} must be at least 0 and give at least one neuron"
        )
    spread = spread or NeuronSpread()

    def uniform(n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        q = torch.rand(n, dtype=torch.float64, generator=generator)
        return low + (high - low) * (torch.full_like(q, 0.5) if spread.homogeneous else q)

    low, high = torch.tensor(spread.recovery, dtype=torch.float64).log().tolist()
    a_excitatory = uniform(n_excitatory, low, high).exp()
    b_excitatory = uniform(n_excitatory, *spread.sensitivity)
    q, q_inhibitory = uniform(n_excitatory), uniform(n_inhibitory)
    bias = torch.cat([uniform(n_excitatory, *spread.bias_excitatory), uniform(n_inhibitory, *spread.bias_inhibitory)])
    return Izhikevich(
        a=torch.cat([a_excitatory, 0.02 + 0.08 * q_inhibitory]),
        b=torch.cat([b_excitatory, 0.25 - 0.05 * q_inhibitory]),
        v_reset=torch.cat([-65.0 + 15.0 * q * q, torch.full_like(q_inhibitory, -65.0)]),
        d=torch.cat([8.0 - 6.0 * q * q, torch.full_like(q_inhibitory, 2.0)]),
        bias=bias,
    )


def nicola_clopath_neurons(n: int, *, b: float = -2.0, dt: float = 0.04) -> CapacitanceIzhikevich:
    """The homogeneous neurons of Nicola & Clopath's FORCE examples, float64 [n].

    b is -2 nS for the sine and 0 for the song; v_threshold = v_rest + 40 - b / k.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    v_rest, k = -60.0, 2.5

    def full(value: float) -> Tensor:
        return torch.full((n,), value, dtype=torch.float64)

    return CapacitanceIzhikevich(
        capacitance=full(250.0),
        k=full(k),
        v_rest=full(v_rest),
        v_threshold=full(v_rest + 40.0 - b / k),
        v_peak=full(30.0),
        v_reset=full(-65.0),
        a=full(0.01),
        b=full(b),
        d=full(200.0),
        bias=full(1000.0),
        dt=dt,
    )
