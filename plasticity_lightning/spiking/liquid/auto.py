"""The fastest engine for each call where there is a GPU: independent samples run there, samples in turn on a CPU core.

Both give the same bits, so the choice changes no result.
"""

from __future__ import annotations

from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid.contract import LiquidActivity, LiquidState, NeuronParameters, Weights
from plasticity_lightning.spiking.liquid.cpu import simulate_cpu
from plasticity_lightning.spiking.liquid.gpu import simulate_gpu
from plasticity_lightning.spiking.liquid.topology import Liquid
from plasticity_lightning.spiking.rules import STDP

__all__ = ["simulate_auto"]


def simulate_auto(
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
    """Simulate B samples; see `contract.Engine`."""
    in_turn = weights == "carried" or state.trace is not None or state.calcium is not None
    simulate = simulate_cpu if in_turn else simulate_gpu
    return simulate(
        liquid,
        inputs,
        state,
        neuron=neuron,
        rule=rule,
        astrocyte=astrocyte,
        weights=weights,
        rate_decay=rate_decay,
        record=record,
        threads=threads,
    )
