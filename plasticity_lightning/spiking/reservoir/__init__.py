"""The Izhikevich reservoir: engines of one signature, chosen by name.

`reference` is the dense oracle, slow and obviously right; `cpu` runs a whole call compiled, lanes over threads; `gpu` the
same on CUDA, a thread block a lane; `auto` picks the fastest
that this machine can run. All give the same spikes and traces, bit for bit. An engine's module is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Literal

from plasticity_lightning.errors import nearest
from plasticity_lightning.spiking.devices import cuda_available
from plasticity_lightning.spiking.reservoir.contract import (
    ClosedLoop,
    Engine,
    LoopState,
    ReservoirActivity,
    ReservoirState,
    Trace,
    initial_state,
)
from plasticity_lightning.spiking.reservoir.drive import Drive
from plasticity_lightning.spiking.reservoir.filters import DoubleExponential, SplitExponentials
from plasticity_lightning.spiking.reservoir.topology import (
    Reservoir,
    ReservoirOptions,
    draw_reservoir,
    join_lanes,
    nicola_clopath_reservoir,
)

__all__ = [
    "ENGINES",
    "ClosedLoop",
    "DoubleExponential",
    "Drive",
    "Engine",
    "EngineName",
    "LoopState",
    "Reservoir",
    "ReservoirActivity",
    "ReservoirOptions",
    "ReservoirState",
    "SplitExponentials",
    "Trace",
    "draw_reservoir",
    "engine",
    "initial_state",
    "join_lanes",
    "nicola_clopath_reservoir",
]

EngineName = Literal["auto", "cpu", "gpu", "reference"]
ENGINES = {
    "cpu": "plasticity_lightning.spiking.reservoir.cpu:simulate_cpu",
    "gpu": "plasticity_lightning.spiking.reservoir.gpu:simulate_gpu",
    "reference": "plasticity_lightning.spiking.reservoir.reference:simulate_reference",
}


def engine(name: EngineName = "auto") -> Engine:
    """The engine of that name; `auto` picks the fastest one available.

    Raises:
        ValueError: if there is no engine of that name.
    """
    if name == "auto":
        name = "gpu" if cuda_available() else "cpu"
    if name not in ENGINES:
        choices = ["auto", *ENGINES]
        raise ValueError(f"engine {name!r} is not known; choose one of {choices}{nearest(name, choices)}")
    module, function = ENGINES[name].split(":")
    return getattr(import_module(module), function)
