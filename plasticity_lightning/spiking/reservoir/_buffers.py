"""Arrays that the compiled engines read and write: one builder from tensors and one way back, for every back end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from plasticity_lightning.spiking.izhikevich import CapacitanceIzhikevich
from plasticity_lightning.spiking.reservoir.contract import (
    ClosedLoop,
    LoopState,
    ReservoirActivity,
    ReservoirState,
    Trace,
)
from plasticity_lightning.spiking.reservoir.drive import Drive
from plasticity_lightning.spiking.reservoir.noise import normal_table
from plasticity_lightning.spiking.reservoir.topology import Reservoir

__all__ = ["CARRIED", "Buffers"]

CARRIED = ("v", "u", "first", "second", "inhibitory", "rising", "decaying")


@dataclass(frozen=True)
class Buffers:
    """C-contiguous arrays of L lanes; shapes as in `contract`. `inputs` are read, `carried` changed in place, `outputs` filled.

    A closed loop's arrays have K = 0 outputs where there is none, and no target where nothing learns.
    """

    inputs: dict[str, np.ndarray]
    carried: dict[str, np.ndarray]
    loop: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    capacitance_form: bool
    filters: tuple[float, ...]
    readout: tuple[float, ...]
    every: int
    rule: tuple[int, float, bool]

    @classmethod
    def of(
        cls,
        reservoir: Reservoir,
        drive: Drive,
        state: ReservoirState,
        trace: Trace,
        loop: ClosedLoop | None,
        record: bool,
    ) -> Buffers:
        """Build them; the state's tensors are copied, the network's are not."""
        n_lanes, n, n_steps = reservoir.n_lanes, reservoir.n_neurons, int(drive.n_steps.max())
        every = trace.steps(reservoir.dt)
        n_outputs = 0 if loop is None else loop.encoder.shape[2]
        inputs = {
            "n_steps": drive.n_steps,
            "start": state.step,
            "key": state.key,
            "break_offsets": drive.offsets,
            "break_step": drive.step,
            "break_level": drive.level,
            "cells": torch.stack(list(reservoir.neurons.tensors().values()), 1),  # [L, P, N]
            "offsets": reservoir.offsets,
            "target": reservoir.target,
            "weight": reservoir.weight,
            "channels": reservoir.channels,
            "noise": reservoir.noise,
            "table": normal_table(),
        }
        return cls(
            inputs={name: value.contiguous().numpy() for name, value in inputs.items()},
            carried={name: getattr(state, name).contiguous().numpy().copy() for name in CARRIED},
            loop=_loop_arrays(loop, state.loop, n_lanes, n, n_steps),
            outputs={
                "traces": np.zeros((n_lanes, n_steps // every, n), np.float32),
                "counts": np.zeros((n_lanes, n), np.int32),
                "n_spikes": np.zeros((n_lanes, n_steps), np.int32),
                "output": np.zeros((n_lanes, n_steps, n_outputs)),
                "spikes": np.zeros((n_lanes, n_steps if record else 0, n), np.uint8),
            },
            capacitance_form=isinstance(reservoir.neurons, CapacitanceIzhikevich),
            filters=reservoir.synapses.coefficients(reservoir.dt),
            readout=trace.coefficients(reservoir.dt),
            every=every,
            rule=(loop.period, loop.forgetting, loop.stale_gain) if loop else (1, 1.0, False),
        )

    def results(self, drive: Drive, state: ReservoirState) -> tuple[ReservoirActivity, ReservoirState]:
        """Tensors of the filled outputs, and the state after the call that began with `state`."""
        tensors = {name: torch.from_numpy(value) for name, value in self.outputs.items()}
        activity = ReservoirActivity(
            trace=tensors["traces"],
            counts=tensors["counts"],
            n_spikes=tensors["n_spikes"],
            output=None if state.loop is None else tensors["output"],
            spikes=tensors["spikes"] if tensors["spikes"].shape[1] else None,
        )
        loop = None
        if state.loop is not None:
            inverse = None if state.loop.inverse is None else torch.from_numpy(self.loop["inverse"])
            loop = LoopState(torch.from_numpy(self.loop["decoder"]), inverse, torch.from_numpy(self.loop["output"]))
        carried = {name: torch.from_numpy(value) for name, value in self.carried.items()}
        return activity, ReservoirState(**carried, key=state.key.clone(), step=state.step + drive.n_steps, loop=loop)


def _loop_arrays(
    loop: ClosedLoop | None, state: LoopState | None, n_lanes: int, n: int, n_steps: int
) -> dict[str, np.ndarray]:
    arrays = {
        "encoder": np.zeros((n_lanes, n, 0)),
        "decoder": np.zeros((n_lanes, 0, n)),
        "inverse": np.zeros((n_lanes, 0, 0)),
        "output": np.zeros((n_lanes, 0)),
        "wanted": np.zeros((n_lanes, 0, 0)),
        "learn": np.zeros((n_lanes, 0), np.bool_),
    }
    if loop is None or state is None:
        return arrays
    arrays["encoder"] = loop.encoder.contiguous().numpy()
    arrays["decoder"] = state.decoder.contiguous().numpy().copy()
    arrays["output"] = state.output.contiguous().numpy().copy()
    if state.inverse is not None:
        arrays["inverse"] = state.inverse.contiguous().numpy().copy()
    if loop.target is not None:
        arrays["wanted"] = loop.target.contiguous().numpy()
        everywhere = np.ones((n_lanes, n_steps), np.bool_)
        arrays["learn"] = everywhere if loop.learn is None else loop.learn.contiguous().numpy()
    return arrays
