"""Simulation engines of one signature: a readable reference and fast back ends, chosen by name.

`reference` is the dense oracle, slow and obviously right; `cpu` the exact event-driven algorithm compiled for the CPU; `auto` the
fastest that this machine can run.
"""

from __future__ import annotations

from typing import Literal

from plasticity_lightning.spiking.engines.contract import Engine, LiquidActivity, LiquidState, NeuronParameters, Weights
from plasticity_lightning.spiking.engines.cpu import simulate_cpu
from plasticity_lightning.spiking.engines.reference import simulate_reference

__all__ = ["ENGINES", "Engine", "EngineName", "LiquidActivity", "LiquidState", "NeuronParameters", "Weights", "engine"]

EngineName = Literal["auto", "cpu", "reference"]
ENGINES: dict[str, Engine] = {"cpu": simulate_cpu, "reference": simulate_reference}


def engine(name: EngineName = "auto") -> Engine:
    """The engine of that name; `auto` picks the fastest one available.

    Raises:
        ValueError: if there is no engine of that name.
    """
    if name == "auto":
        return ENGINES["cpu"]
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is not known; choose one of {['auto', *ENGINES]}")
    return ENGINES[name]
