"""A plastic or static `Liquid` written in Brian2 from the equations, for equality and for the benchmark. Needs the extra `brian2`.

Brian2's step is: charge, spike test, synapses, reset. Ours tests first and charges last, so that our charge is the first
thing in Brian2's next step.
"""

from __future__ import annotations

import math
from typing import Any

import brian2 as b2
import numpy as np

from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid import NeuronParameters
from plasticity_lightning.spiking.liquid.topology import Liquid
from plasticity_lightning.spiking.rules import STDP, weight_bounds

__all__ = ["brian_liquid"]

_CHARGE = """
v = v + (current - v / tau_mem) + pulses
pulses = 0
current = current * decay + later
later = 0
c = c * decay
"""
_DELIVER = "current_post += w * (c_max - c_pre)\n"
_AT_SOURCE = """
changed = clip(w + ({at_source} * x_post + {at_target} * x_pre * int(lastspike_post == t)), low_pre, high_pre)
later_post += (changed - w) * c_max * decay
w = changed
"""
_AT_TARGET = """
changed = clip(w + {at_target} * x_pre * int(lastspike_pre < t), low_pre, high_pre)
later_post += (changed - w) * c_pre * decay
w = changed
"""


def brian_liquid(
    liquid: Liquid,
    trains: SpikeTrains,
    weight: np.ndarray,
    *,
    neuron: NeuronParameters,
    rule: STDP | None,
    astrocyte: Astrocyte | None,
) -> tuple[Any, Any]:
    """One sample of `trains` as a Brian2 network and the spike monitor of its liquid; the caller runs it for `trains.n_steps` ms.

    `weight` float64 [E]. A rule needs an astrocyte here. Both terms of a pair of spikes are summed before they are clipped, as in the liquid: the
    source's pathway takes them, the target's leaves edges out whose source fires at the same time.
    """
    n, dt = liquid.n_neurons, 1.0 * b2.ms
    source, target = liquid.source.numpy(), liquid.target.numpy()
    c_start, decay = math.exp(-20.0 / neuron.tau_syn) / neuron.tau_syn, math.exp(-1.0 / neuron.tau_syn)
    namespace: dict[str, Any] = {"tau_mem": neuron.tau_mem, "decay": decay, "c_max": 1.0 / neuron.tau_syn}
    namespace |= {"v_threshold": neuron.v_threshold, "v_reset": neuron.v_reset, "pulse": neuron.pulse}
    equations = "v : 1\ncurrent : 1\nlater : 1\npulses : 1\nc : 1\n"
    charge, reset = _CHARGE, "v = v_reset\nc = c_max\n"
    if rule is not None and astrocyte is not None:
        equations += "x : 1\nlow : 1\nhigh : 1\nside : 1\n"
        charge, reset = charge + "x = x * trace_decay\n", reset + "x += trace_increment\n"
        namespace |= {"trace_decay": rule.trace_decay, "trace_increment": rule.trace_increment, "lr": rule.lr}
        namespace |= {"w_astro": astrocyte.weight, "bias": astrocyte.bias, "tau_astro": astrocyte.tau}
    cells = b2.NeuronGroup(
        liquid.n_sources,
        equations,
        threshold="v >= v_threshold",
        reset=reset,
        refractory=(neuron.refractory + 1) * dt,
        method="exact",
        dt=dt,
        namespace=namespace,
    )
    cells.c = c_start / decay  # the first charge comes before the first step
    resting = np.zeros(liquid.n_sources)
    np.add.at(resting, target, weight * c_start)
    cells.later = resting
    astro: Any = None
    objects = [cells, cells.run_regularly(charge, dt=dt, when="start")]
    if rule is None or astrocyte is None:
        kinds = {_DELIVER: (None, np.ones(len(source), dtype=bool))}
    else:
        astro = b2.NeuronGroup(1, "A : 1\nn : 1", dt=dt, namespace=namespace)
        astro.A = astrocyte.bias
        cells.side = np.where(np.arange(liquid.n_sources) < n, 1.0, -1.0)
        cells.low, cells.high = (
            bound.numpy() for bound in weight_bounds(n, liquid.n_excitatory, liquid.n_inputs, rule.w_max)
        )
        senses = b2.Synapses(cells, astro, on_pre="n_post += side_pre", dt=dt)
        senses.connect()
        update = "A = A + (w_astro * n + bias - A) / tau_astro\nn = 0"
        objects += [astro, senses, astro.run_regularly(update, dt=dt, when="end")]
        inhibitory = (source >= liquid.n_excitatory) & (source < n)
        rates = {False: ("lr", "(-A)"), True: ("(-A)", "lr")}
        kinds = {}
        for is_inhibitory, (at_target, at_source) in rates.items():
            names = {"at_target": at_target, "at_source": at_source}
            kinds[_DELIVER + _AT_SOURCE.format(**names)] = (_AT_TARGET.format(**names), inhibitory == is_inhibitory)
    for on_pre, (on_post, chosen) in kinds.items():
        synapses = b2.Synapses(cells, cells, "w : 1", on_pre=on_pre, on_post=on_post, dt=dt, namespace=namespace)
        if rule is not None:
            synapses.variables.add_reference("A", astro, "A", index="0")  # one value for all edges
        synapses.connect(i=source[chosen], j=target[chosen])
        synapses.w = weight[chosen]
        objects.append(synapses)
    events = trains.offsets.diff().numpy()
    generator = b2.SpikeGeneratorGroup(
        liquid.n_inputs, trains.channels.numpy(), np.repeat(np.arange(trains.n_steps), events) * dt, dt=dt
    )
    drive = b2.Synapses(generator, cells, on_pre="pulses_post += pulse", dt=dt, namespace=namespace)
    drive.connect(i=np.arange(liquid.n_inputs), j=n + np.arange(liquid.n_inputs))
    spikes = b2.SpikeMonitor(cells[:n])
    return b2.Network(*objects, generator, drive, spikes), spikes
