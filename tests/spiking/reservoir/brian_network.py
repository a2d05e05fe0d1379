"""A `Reservoir` written in Brian2 from the equations, for equality and for the benchmark. Needs the extra `brian2`."""

from __future__ import annotations

from typing import Any

import brian2 as b2
import numpy as np

from plasticity_lightning.spiking.izhikevich import Izhikevich
from plasticity_lightning.spiking.reservoir import Drive, Reservoir

__all__ = ["brian_network"]

_CURRENTS = """
i_1 = i_1 * d1 + k1 * charge_e
i_2 = i_2 * d2 + k2 * charge_e
i_3 = i_3 * d3 + k3 * charge_i
charge_e = 0
charge_i = 0
"""
_FORM_2003 = """
w = 0.5 * (0.04 * v**2 + 5.0 * v + 140.0 - u + x)
half = clip(v + w, -1e30, 30.0)
w = 0.5 * (0.04 * half**2 + 5.0 * half + 140.0 - u + x)
v = int(half >= 30.0) * half + int(half < 30.0) * clip(half + w, -1e30, 30.0)
u = u + a * (b * v - u)
"""
_STATES = "i_1 : 1\ni_2 : 1\ni_3 : 1\ncharge_e : 1\ncharge_i : 1\nx : 1\nbias : 1\n"


def brian_network(
    reservoir: Reservoir, drive: Drive, *, v: np.ndarray, u: np.ndarray, noise: bool = False
) -> tuple[Any, Any]:
    """The one lane of `reservoir` as a Brian2 network and its spike monitor; the caller runs it.

    The capacitance form is left to Brian2's own Euler integrator; the two clamped half steps of the form of 2003 are no method of Brian2's and
    are written out. `noise` adds Brian2's own normal numbers, not ours.
    """
    n, dt = reservoir.n_neurons, reservoir.dt * b2.ms
    d1, k1, d2, k2, d3, k3 = reservoir.synapses.coefficients(reservoir.dt)
    levels = np.zeros((int(drive.n_steps[0]), max(reservoir.n_channels, 1)))
    for step, level in zip(drive.step.tolist(), drive.level.numpy(), strict=True):
        levels[step:, : reservoir.n_channels] = level
    namespace: dict[str, Any] = {"d1": d1, "k1": k1, "d2": d2, "k2": k2, "d3": d3, "k3": k3}
    cells = {name: value[0].numpy() for name, value in reservoir.neurons.tensors().items()}
    stimulus = ""
    channels = {}
    for s in range(reservoir.n_channels):
        namespace[f"level_{s}"] = b2.TimedArray(levels[:, s].copy(), dt=dt)
        channels[f"channel_{s}"] = reservoir.channels[0, s].numpy()
        stimulus += f" + level_{s}(t) * channel_{s}"
    if noise:
        namespace["noise"] = float(reservoir.noise[0])
        stimulus += " + noise * randn()"
    current = f"x = bias{stimulus} + (i_1 + i_2 + i_3)\n"
    if isinstance(reservoir.neurons, Izhikevich):
        equations = _STATES + "v : 1\nu : 1\na : 1\nb : 1\nv_reset : 1\nd : 1\n"
        update, threshold = _CURRENTS + current + _FORM_2003, "v >= 30.0"
    else:
        equations = (
            "dv/dt = (k * (v - v_rest) * (v - v_threshold) - u + x) / capacitance / ms : 1\n"
            "du/dt = a * (b * (v - v_rest) - u) / ms : 1\n" + _STATES
        )
        equations += "".join(f"{name} : 1\n" for name in cells if name != "bias")
        update, threshold = _CURRENTS + current, "v >= v_peak"
    equations += "".join(f"{name} : 1\n" for name in channels)
    group = b2.NeuronGroup(
        n, equations, threshold=threshold, reset="v = v_reset\nu += d", method="euler", dt=dt, namespace=namespace
    )
    for name, value in {**cells, **channels, "v": v, "u": u}.items():
        setattr(group, name, value)
    updater = group.run_regularly(update, dt=dt, when="start")
    source = np.repeat(np.arange(n), np.diff(reservoir.offsets[0].numpy()))
    target, weight = reservoir.target.numpy(), reservoir.weight.numpy()
    objects = [group, updater]
    for name, chosen in (("charge_e", source < reservoir.n_excitatory), ("charge_i", source >= reservoir.n_excitatory)):
        if chosen.any():
            synapses = b2.Synapses(group, group, "w : 1", on_pre=f"{name}_post += w", dt=dt)
            synapses.connect(i=source[chosen], j=target[chosen])
            synapses.w = weight[chosen]
            objects.append(synapses)
    spikes = b2.SpikeMonitor(group)
    return b2.Network(*objects, spikes), spikes
