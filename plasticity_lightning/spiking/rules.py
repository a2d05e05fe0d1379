"""Plasticity rules of the liquid: additive all-to-all STDP, and activity-dependent AP-STDP.

Every neuron, liquid or input, keeps a trace x <- decay * (x + increment * s). With the rates lr (potentiation) and A (depression, the
astrocyte's state where one modulates the rule) one step changes a synapse j -> i by

    excitatory or input source:   lr * x_j * s_i  -  A * x_i * s_j
    inhibitory source:           -A * x_j * s_i  + lr * x_i * s_j

with the traces *before* this step's spikes, both terms summed, then clipped. So a larger A lowers excitability through both
populations. AP-STDP lets only the positive or only the negative terms through, according to the target's calcium.

`spike_rates`, `pair_terms`, `gated_change`, `trace_step`, `calcium_step` and `ap_gates` are plain arithmetic on whatever they are given: the dense
reference calls them with tensors, the compiled engine compiles these very functions for numbers. So a rule is changed here, for all engines.

Source: Ivanov & Michmizos 2021 and their published code (`LSM_APSTDP_STDP.py` for AP-STDP).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "APSTDP",
    "STDP",
    "ap_gates",
    "calcium_step",
    "gated_change",
    "pair_terms",
    "spike_rates",
    "stdp_terms",
    "trace_step",
    "weight_bounds",
]

Value = TypeVar("Value", float, Tensor)  # a number where compiled, else a tensor


@dataclass(frozen=True)
class STDP:
    """Pair-based STDP with additive updates and hard bounds.

    Args:
        lr: potentiation rate, at least 0; also the depression rate where nothing modulates it.
        trace_increment: added to a neuron's trace at each of its spikes, at least 0.
        trace_decay: factor per 1 ms step, in [0, 1). 0.90477447 is the original's approximation of exp(-1/10).
        w_max: largest |w| of a plastic synapse, positive.
    """

    lr: float = 0.15
    trace_increment: float = 0.1
    trace_decay: float = 0.90477447
    w_max: float = 3.0

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError(f"lr={self.lr} must be at least 0")
        if self.trace_increment < 0:
            raise ValueError(f"trace_increment={self.trace_increment} must be at least 0")
        if not 0 <= self.trace_decay < 1:
            raise ValueError(f"trace_decay={self.trace_decay} must lie in [0, 1)")
        if self.w_max <= 0:
            raise ValueError(f"w_max={self.w_max} must be positive")


@dataclass(frozen=True)
class APSTDP(STDP):
    """STDP gated by the target's calcium, a running spike count close to its rate in Hz.

    Args:
        theta: calcium at which potentiation gives way to depression, at least 0 (37 for MNIST, 10 for N-MNIST).
        delta: width of either window, positive (19 to 25 for MNIST, 2 to 3 for N-MNIST).
        tau_calcium: decay time in ms, at least 1.
    """

    theta: float = 37.0
    delta: float = 22.0
    tau_calcium: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.theta < 0:
            raise ValueError(f"theta={self.theta} must be at least 0")
        if self.delta <= 0:
            raise ValueError(f"delta={self.delta} must be positive")
        if self.tau_calcium < 1:
            raise ValueError(f"tau_calcium={self.tau_calcium} must be at least 1 ms")


def trace_step(trace: Value, spikes: Value, rule: STDP) -> Value:
    """Trace of each neuron after this step's spikes; same shape as `trace`, any leading dimensions."""
    return trace * rule.trace_decay + rule.trace_decay * rule.trace_increment * spikes


def spike_rates(inhibitory: bool, lr: Any, depression: Any) -> tuple[Any, Any]:
    """What one unit of trace is worth to a synapse: (source trace at a target spike, target trace at a source spike).

    Args:
        inhibitory: whether the source is an inhibitory liquid neuron.
        lr: potentiation rate, number or tensor.
        depression: A, likewise; it may be negative.
    """
    return (-depression, lr) if inhibitory else (lr, -depression)


def pair_terms(
    source_spikes: Value, target_spikes: Value, source_trace: Value, target_trace: Value, at_target: Any, at_source: Any
) -> tuple[Value, Value]:
    """Weight change (at target spikes, at source spikes) of synapses with the rates `at_target` and `at_source` of `spike_rates`."""
    # as tensors the first two factors of each have the size of the sources, not that of the synapses
    return at_target * source_trace * target_spikes, at_source * source_spikes * target_trace


def stdp_terms(
    source_spikes: Tensor,
    target_spikes: Tensor,
    source_trace: Tensor,
    target_trace: Tensor,
    inhibitory: Tensor,
    lr: Tensor | float,
    depression: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Weight change at target spikes and at source spikes, before gating, summing and clipping.

    Args:
        source_spikes: 0/1, of the presynaptic neurons, broadcastable to the synapses, e.g. [B, 1, S] for dense weights [B, N, S].
        target_spikes: 0/1, of the postsynaptic neurons, e.g. [B, N, 1].
        source_trace: trace of the presynaptic neurons before this step's spikes, at least 0.
        target_trace: likewise of the postsynaptic neurons.
        inhibitory: bool, true where the source is an inhibitory liquid neuron.
        lr: potentiation rate, number or broadcastable tensor.
        depression: A, number or broadcastable tensor; it may be negative.

    Returns:
        (change at target spikes, change at source spikes), each of the broadcast shape.
    """
    kinds = zip(spike_rates(True, lr, depression), spike_rates(False, lr, depression), strict=True)
    at_target, at_source = (torch.where(inhibitory, of_inhibitory, of_other) for of_inhibitory, of_other in kinds)
    return pair_terms(source_spikes, target_spikes, source_trace, target_trace, at_target, at_source)


def gated_change(at_target: Value, at_source: Value, up: Any, down: Any) -> Value:
    """Sum of both terms, of each its positive part times `up` and its negative part times `down` (0 or 1)."""
    positive = ((at_target + abs(at_target)) + (at_source + abs(at_source))) / 2
    negative = ((at_target - abs(at_target)) + (at_source - abs(at_source))) / 2
    return positive * up + negative * down


def calcium_step(calcium: Value, spikes: Value, rule: APSTDP) -> Value:
    """Calcium after this step's spikes: C <- C - C / tau + s."""
    return calcium + (spikes - calcium / rule.tau_calcium)


def ap_gates(calcium: Any, rule: APSTDP) -> tuple[Any, Any]:
    """Which changes the targets let through, as booleans (positive ones, negative ones) of calcium's shape.

    Positive terms pass while theta < C < theta + delta, negative ones while theta - delta < C < theta.
    """
    positive = (calcium > rule.theta) & (calcium < rule.theta + rule.delta)
    negative = (calcium > rule.theta - rule.delta) & (calcium < rule.theta)
    return positive, negative


def weight_bounds(n_neurons: int, n_excitatory: int, n_inputs: int, w_max: float) -> tuple[Tensor, Tensor]:
    """Lower and upper weight bound by source, float64 [n_neurons + n_inputs].

    Excitatory [0, w_max], inhibitory [-w_max, 0], input [-w_max, w_max]: an input synapse may change sign.
    """
    source = torch.arange(n_neurons + n_inputs)
    excitatory = source < n_excitatory
    inhibitory = ~excitatory & (source < n_neurons)
    zero = torch.zeros(len(source), dtype=torch.float64)
    return zero.masked_fill(~excitatory, -w_max), zero.masked_fill(~inhibitory, w_max)
