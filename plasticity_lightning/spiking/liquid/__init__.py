"""Simulation engines of one signature: a readable reference and fast back ends, chosen by name.

`reference` is the dense oracle, slow and obviously right; `cpu` the exact event-driven algorithm compiled for the CPU; `gpu`
the same on CUDA; `auto` the fastest that this machine can run. An engine's module is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Literal

from plasticity_lightning.spiking.devices import cuda_available
from plasticity_lightning.spiking.liquid.contract import Engine, LiquidActivity, LiquidState, NeuronParameters, Weights

__all__ = ["ENGINES", "Engine", "EngineName", "LiquidActivity", "LiquidState", "NeuronParameters", "Weights", "engine"]

EngineName = Literal["auto", "cpu", "gpu", "reference"]
ENGINES = {
    "cpu": "plasticity_lightning.spiking.liquid.cpu:simulate_cpu",
    "gpu": "plasticity_lightning.spiking.liquid.gpu:simulate_gpu",
    "reference": "plasticity_lightning.spiking.liquid.reference:simulate_reference",
}


def engine(name: EngineName = "auto") -> Engine:
    """The engine of that name; `auto` picks the fastest one available.

    Raises:
        ValueError: if there is no engine of that name.
    """
    if name == "auto":
        if cuda_available():
            from plasticity_lightning.spiking.liquid.auto import simulate_auto

            return simulate_auto
        name = "cpu"
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} is not known; choose one of {['auto', *ENGINES]}")
    module, function = ENGINES[name].split(":")
    return getattr(import_module(module), function)
