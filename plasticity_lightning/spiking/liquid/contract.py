"""What every engine takes and returns, whatever it is compiled for.

An engine simulates B samples of T steps of 1 ms through one liquid and returns spike counts. `weights="private"` gives each sample its own
copy of the weights (feature extraction); `weights="carried"` hands them from sample to sample in order (initialisation).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid.topology import Liquid
from plasticity_lightning.spiking.rules import APSTDP, STDP

__all__ = ["Engine", "LiquidActivity", "LiquidState", "NeuronParameters", "Weights", "check_simulation"]

Weights = Literal["private", "carried"]


@dataclass(frozen=True)
class NeuronParameters:
    """Leaky integrate-and-fire neuron with saturating synapses; liquid and input neurons share it.

    Args:
        tau_mem: membrane time constant in ms, at least 1.
        tau_syn: synaptic time constant in ms, positive; a presynaptic spike sets the current factor to 1 / tau_syn.
        v_threshold: firing threshold, above v_reset.
        v_reset: membrane potential after a spike.
        refractory: steps in which no spike is allowed, at least 0; the smallest inter-spike interval is refractory + 1 ms.
        pulse: jump of an input neuron's potential at an external pulse, positive.
    """

    tau_mem: float = 64.0
    tau_syn: float = 1.0
    v_threshold: float = 20.0
    v_reset: float = 0.0
    refractory: int = 2
    pulse: float = 100.0

    def __post_init__(self) -> None:
        if self.tau_mem < 1:
            raise ValueError(f"tau_mem={self.tau_mem} must be at least 1 ms, the time step")
        if self.tau_syn <= 0:
            raise ValueError(f"tau_syn={self.tau_syn} must be positive")
        if self.v_threshold <= self.v_reset:
            raise ValueError(f"v_threshold={self.v_threshold} must lie above v_reset={self.v_reset}")
        if self.refractory < 0:
            raise ValueError(f"refractory={self.refractory} must be at least 0 steps")
        if self.pulse <= 0:
            raise ValueError(f"pulse={self.pulse} must be positive")


@dataclass
class LiquidState:
    """What may outlive a sample.

    Args:
        weight: float64 [E], one weight per edge of the liquid.
        trace: float64 [N + C], STDP traces carried from sample to sample; None resets them to zero at each sample.
        calcium: float64 [N], AP-STDP's calcium, carried likewise.
    """

    weight: Tensor = field(repr=False)
    trace: Tensor | None = field(default=None, repr=False)
    calcium: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class LiquidActivity:
    """What a simulation of B samples gives.

    Args:
        counts: int32 [B, N], spikes of each liquid neuron.
        n_liquid: int32 [B, T], liquid spikes per step.
        n_input: int32 [B, T], input-neuron spikes per step.
        modulation: float64 [B, T], depression rate after each step: the astrocyte's A, else lr; zero without plasticity.
        spikes: uint8 [B, T, N] if recorded, else None.
    """

    counts: Tensor = field(repr=False)
    n_liquid: Tensor = field(repr=False)
    n_input: Tensor = field(repr=False)
    modulation: Tensor = field(repr=False)
    spikes: Tensor | None = field(default=None, repr=False)


class Engine(Protocol):
    """One back end. Samples with `weights="private"` and without carried trace or calcium are independent of each other."""

    def __call__(
        self,
        liquid: Liquid,
        inputs: SpikeTrains,
        state: LiquidState,
        *,
        neuron: NeuronParameters,
        rule: STDP | None,
        astrocyte: Astrocyte | None,
        weights: Weights,
        rate_decay: float = 1.0,
        record: bool = False,
        threads: int | None = None,
    ) -> tuple[LiquidActivity, LiquidState]:
        """Simulate; returns the activity and the state after the last sample (weights unchanged where they are private)."""


def check_simulation(
    liquid: Liquid,
    inputs: SpikeTrains,
    state: LiquidState,
    rule: STDP | None,
    astrocyte: Astrocyte | None,
    weights: str,
    rate_decay: float,
) -> None:
    """Refuse arguments that do not fit together.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if not liquid.n_edges:
        raise ValueError(
            f"the liquid of {liquid.n_neurons} neurons and {liquid.n_inputs} inputs has no edge, so nothing can happen in "
            "it: make input_density or the connection probabilities larger"
        )
    if inputs.n_channels != liquid.n_inputs:
        raise ValueError(f"inputs have {inputs.n_channels} channels, the liquid takes {liquid.n_inputs}")
    if state.weight.shape != (liquid.n_edges,):
        raise ValueError(f"state.weight has shape {tuple(state.weight.shape)}, the liquid has {liquid.n_edges} edges")
    if state.trace is not None and state.trace.shape != (liquid.n_sources,):
        raise ValueError(f"state.trace has shape {tuple(state.trace.shape)}, expected ({liquid.n_sources},)")
    if state.calcium is not None and state.calcium.shape != (liquid.n_neurons,):
        raise ValueError(f"state.calcium has shape {tuple(state.calcium.shape)}, expected ({liquid.n_neurons},)")
    if weights not in ("private", "carried"):
        raise ValueError(f"weights={weights!r} must be 'private' or 'carried'")
    if not 0 < rate_decay <= 1:
        raise ValueError(f"rate_decay={rate_decay} must lie in (0, 1]")
    if rule is None and astrocyte is not None:
        raise ValueError("an astrocyte modulates STDP: it needs a rule, got rule=None")
    if rule is not None and float(state.weight.abs().max()) > rule.w_max * (1 + 1e-6):
        raise ValueError(
            f"a weight of magnitude {float(state.weight.abs().max()):g} exceeds the rule's w_max={rule.w_max}"
        )
    if isinstance(rule, APSTDP) and astrocyte is not None:
        raise ValueError("AP-STDP is gated by calcium and takes no astrocyte")
