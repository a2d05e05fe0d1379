"""Compiled event-driven simulation of a plastic liquid: work only where a spike is.

The synaptic current obeys I <- exp(-1/tau_syn) * I; a spike of source j adds W_ij * (c_max - c_j) and sets c_j to c_max, a weight change dW
adds dW * c_j: `synapses.saturating_synapse_step`, seen from the events. So one step costs the out-edges of the sources that fired plus the
in-edges of the neurons that fired. Of the latter, only edges whose source has fired before in this sample can change (its trace is zero otherwise).
Their weights live in rows, one a neuron, that grow as sources fire for the first time: the loop over a row reads weights in order and gathers the
rest from tables of 32 bytes an entry, one cache line for all that an edge needs of its source (`side`) or of its target (`node`). Indices are
unsigned, which spares a test for negative ones. Everything is float64, so that rounding does not decide a spike.

What a neuron, a rule and the astrocyte do in one step is not written here: the functions of `neurons`, `rules` and `astrocyte` are compiled as they
stand. `simulate_samples` is the entry; the others are the parts of a step, in the order in which it calls them.
"""

from __future__ import annotations

import hashlib
from collections import namedtuple
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
from numba import njit

from plasticity_lightning.spiking.astrocyte import astrocyte_step
from plasticity_lightning.spiking.liquid.contract import NeuronParameters
from plasticity_lightning.spiking.neurons import charge
from plasticity_lightning.spiking.rules import (
    APSTDP,
    ap_gates,
    calcium_step,
    gated_change,
    pair_terms,
    spike_rates,
    trace_step,
)

__all__ = ["Activity", "Feedback", "How", "Network", "Neuron", "Rule", "State", "Trains", "simulate_samples"]

# Arguments of the kernel; a neuron and a rule have the fields of the dataclasses that the shared functions expect.
Network = namedtuple("Network", "source_offset target row_offset low high n_neurons n_excitatory")
Trains = namedtuple("Trains", "offsets channels n_steps")
Neuron = namedtuple("Neuron", [f.name for f in fields(NeuronParameters)])  # type: ignore[misc]
Rule = namedtuple("Rule", [f.name for f in fields(APSTDP)])  # type: ignore[misc]
Feedback = namedtuple("Feedback", "weight bias tau senses_liquid senses_input")
How = namedtuple("How", "plastic gated modulated carried rate_decay")
State = namedtuple("State", "weight trace calcium")  # trace and calcium are of size 0 where they are not carried
Activity = namedtuple("Activity", "counts n_liquid n_input modulation spikes")  # spikes is of size 0 where not recorded

# What the simulation of a sample works on, arrays by liquid neuron [N], input channel [C], source [N + C] or edge [E]:
#   v, rest [N], v_in, rest_in [C]: potential and refractory counter;  node [N, 4], side [N + C, 4]: see the columns below
#   x [N + C]: STDP trace;  fired [N + C]: 1.0 where there was a spike in this step;  calcium, up, down [N]: of AP-STDP, with its gates as 0.0 or 1.0
#   factor: current factors by ms since a spike, then those since the start;  since [N + C]: where in it a source's factor of step 0 would stand
#   weight [E]: at the start of the sample, private samples share it and never write it;  slot [E]: place of a listed edge in the rows
#   row_weight, row_source [E], row_end [N]: the rows
#   listed [N + C]: whether a source's edges are in the rows;  order: the listed sources
#   is_active [C]: whether a channel carries a pulse or a trace in this sample;  active: those that do;  spiked: sources that fired, liquid first
_Work = namedtuple(
    "_Work",
    "v rest v_in rest_in node side x fired calcium up down factor since "
    "weight slot row_weight row_source row_end listed order is_active active spiked resting_drive",
)
_CURRENT, _LATER, _TRACE, _FIRED = 0, 1, 2, 3  # of node: synaptic current, its plastic change, STDP trace, spike
_PUSH, _LOW, _HIGH, _C = 0, 1, 2, 3  # of side: change by a target's spike, bounds of the weight, current factor
_NEGLIGIBLE = 1e-200  # below it a decaying value is set to 0: subnormal arithmetic is a hundred times slower
_START_CLOCK = 20.0  # ms since the last spike of every source at the start of a sample, as `SaturatingSynapse` has it


def _part(function: Callable[..., Any]) -> Any:
    return njit(nogil=True, inline="always")(function)


_SHARED: tuple[Any, ...] = (
    ap_gates,
    astrocyte_step,
    calcium_step,
    charge,
    gated_change,
    pair_terms,
    spike_rates,
    trace_step,
)
_ap_gates, _astrocyte_step, _calcium_step, _charge, _gated_change, _pair_terms, _spike_rates, _trace_step = (
    _part(function) for function in _SHARED
)


def _compile(revision: str) -> Any:
    @njit(nogil=True, cache=True, error_model="numpy")
    def simulate_samples(first, last, network, trains, neuron, rule, feedback, how, state, activity):  # type: ignore[no-untyped-def]
        """Simulate samples first..last-1, filling their rows of `activity`; `state` takes what is carried from one to the next."""
        revision  # noqa: B018 - a part of the closure, hence of the key in numba's cache
        work = _workspace(network, trains, neuron, how, state)
        for b in range(first, last):
            n_active, n_listed = _start(b, work, network, trains, how, state, how.carried or b == first)
            n_listed = _run(b, n_active, n_listed, work, network, trains, neuron, rule, feedback, how, activity)
            _hand_on(n_listed, work, network, how, state)

    return simulate_samples


@_part
def _workspace(network, trains, neuron, how, state):  # type: ignore[no-untyped-def]
    n, n_sources, n_edges = network.n_neurons, network.source_offset.size - 1, network.target.size
    side = np.zeros((n_sources, 4))
    side[:, _LOW] = network.low
    side[:, _HIGH] = network.high
    return _Work(
        np.empty(n),
        np.empty(n, dtype=np.int64),
        np.empty(n_sources - n),
        np.empty(n_sources - n, dtype=np.int64),
        np.zeros((n, 4)),
        side,
        np.empty(n_sources),
        np.zeros(n_sources),
        np.zeros(n),
        np.ones(n),
        np.ones(n),
        _factors(trains.n_steps, neuron),
        np.empty(n_sources, dtype=np.int64),
        state.weight,
        np.empty(n_edges, dtype=np.uint32),
        np.empty(n_edges),
        np.empty(n_edges, dtype=network.target.dtype),
        np.empty(n, dtype=np.int64),
        np.empty(n_sources, dtype=np.bool_),
        np.empty(n_sources, dtype=np.int64),
        np.empty(n_sources - n, dtype=np.bool_),
        np.empty(n_sources - n, dtype=np.int64),
        np.empty(n_sources, dtype=np.int64),
        np.zeros(n),
    )


@_part
def _factors(n_steps, neuron):  # type: ignore[no-untyped-def]
    """Current factor after 0..n_steps steps of decay, from its maximum and from the value at the start of a sample."""
    factor = np.empty(2 * (n_steps + 1))
    factor[0] = 1.0 / neuron.tau_syn
    factor[n_steps + 1] = np.exp(-_START_CLOCK / neuron.tau_syn) / neuron.tau_syn
    for k in range(1, factor.size):
        if k != n_steps + 1:
            factor[k] = factor[k - 1] * np.exp(-1.0 / neuron.tau_syn) if factor[k - 1] > _NEGLIGIBLE else 0.0
    return factor


@_part
def _start(b, work, network, trains, how, state, new_weights):  # type: ignore[no-untyped-def]
    """Everything at rest, apart from what is carried; returns the numbers of active channels and of listed sources."""
    n = network.n_neurons
    c_start = work.factor[trains.n_steps + 1]
    if new_weights:
        work.resting_drive[:] = 0.0
        for e in range(network.target.size):
            work.resting_drive[network.target[e]] += work.weight[e] * c_start
    work.v[:] = 0.0
    work.v_in[:] = 0.0
    work.rest[:] = 0
    work.rest_in[:] = 0
    work.node[:, _CURRENT] = work.resting_drive
    work.since[:] = trains.n_steps + 1
    work.is_active[:] = False
    work.listed[:] = False
    work.row_end[:] = network.row_offset[:n]
    n_active, n_listed = 0, 0
    if state.trace.size > 0:
        work.x[:] = state.trace
        for j in range(work.x.size):
            if work.x[j] > 0.0:
                n_listed = _list_source(j, n_listed, work, network)
                if j >= n:
                    work.is_active[j - n] = True
                    work.active[n_active] = j - n
                    n_active += 1
    else:
        work.x[:] = 0.0
    work.node[:, _TRACE] = work.x[:n]
    if state.calcium.size > 0:
        work.calcium[:] = state.calcium
    else:
        work.calcium[:] = 0.0
    for k in range(trains.offsets[b * trains.n_steps], trains.offsets[(b + 1) * trains.n_steps]):
        a = trains.channels[k]
        if not work.is_active[a]:
            work.is_active[a] = True
            work.active[n_active] = a
            n_active += 1
    return n_active, n_listed


@_part
def _list_source(j, n_listed, work, network):  # type: ignore[no-untyped-def]
    """Append the out-edges of source j to the rows of their targets; returns the number of listed sources."""
    work.listed[j] = True
    work.order[n_listed] = j
    for e in range(network.source_offset[j], network.source_offset[j + 1]):
        p = work.row_end[network.target[e]]
        work.slot[e] = p
        work.row_weight[p] = work.weight[e]
        work.row_source[p] = j
        work.row_end[network.target[e]] = p + 1
    return n_listed + 1


@_part
def _run(b, n_active, n_listed, work, network, trains, neuron, rule, feedback, how, activity):  # type: ignore[no-untyped-def]
    """All steps of sample b; returns the number of listed sources."""
    lr, w_astro, b_astro = rule.lr, feedback.weight, feedback.bias
    depression = b_astro if how.modulated else lr
    for t in range(trains.n_steps):
        n_spiked, sensed = _fire_liquid(b, t, work, network, neuron, feedback, activity)
        n_fired, sensed_input = _fire_inputs(b, t, n_active, n_spiked, work, network, trains, neuron, feedback)
        activity.n_liquid[b, t] = n_spiked
        activity.n_input[b, t] = n_fired - n_spiked
        if how.gated:
            _gate(work, rule)
        if how.plastic:
            n_listed = _deliver_and_learn(t, n_fired, n_listed, lr, depression, work, network, how)
        else:
            _deliver(t, n_fired, work, network)
        _integrate(n_spiked, work, neuron)
        if how.plastic:
            _learn_at_targets(t, n_spiked, n_fired, n_listed, lr, depression, work, network, how)
            _trace(n_listed, work, rule)
            if how.modulated:
                depression = _astrocyte_step(depression, sensed, sensed_input, w_astro, b_astro, feedback.tau)
            activity.modulation[b, t] = depression
            lr *= how.rate_decay
            depression *= how.rate_decay
            w_astro *= how.rate_decay
            b_astro *= how.rate_decay
        for k in range(n_fired):
            work.fired[work.spiked[k]] = 0.0
        for k in range(n_spiked):
            work.node[work.spiked[k], _FIRED] = 0.0
    return n_listed


@_part
def _fire_liquid(b, t, work, network, neuron, feedback, activity):  # type: ignore[no-untyped-def]
    """Spike test and reset; returns the number of spikes and that of sensed ones."""
    n_spiked, sensed = 0, 0
    for i in range(network.n_neurons):
        if work.v[i] >= neuron.v_threshold and work.rest[i] <= 0:
            work.spiked[n_spiked] = i
            n_spiked += 1
    for k in range(n_spiked):
        i = work.spiked[k]
        work.v[i] = neuron.v_reset
        work.node[i, _FIRED] = 1.0
        work.fired[i] = 1.0
        activity.counts[b, i] += 1
        sensed += feedback.senses_liquid[i]
        if activity.spikes.size > 0:
            activity.spikes[b, t, i] = 1
    return n_spiked, sensed


@_part
def _fire_inputs(b, t, n_active, n_spiked, work, network, trains, neuron, feedback):  # type: ignore[no-untyped-def]
    """Spike test, reset, leak and pulses of the channels; returns the number of all spikes and of sensed input spikes."""
    n_fired, sensed = n_spiked, 0
    for k in range(n_active):
        a = work.active[k]
        if work.v_in[a] >= neuron.v_threshold and work.rest_in[a] <= 0:
            work.v_in[a] = neuron.v_reset
            work.rest_in[a] = neuron.refractory + 1  # one more: this very step is counted down below
            work.spiked[n_fired] = network.n_neurons + a
            work.fired[network.n_neurons + a] = 1.0
            n_fired += 1
            sensed += feedback.senses_input[a]
        work.v_in[a] = _charge(work.v_in[a], 0.0, neuron.tau_mem)
        work.rest_in[a] -= 1
    for k in range(trains.offsets[b * trains.n_steps + t], trains.offsets[b * trains.n_steps + t + 1]):
        work.v_in[trains.channels[k]] += neuron.pulse
    return n_fired, sensed


@_part
def _gate(work, rule):  # type: ignore[no-untyped-def]
    """Calcium of AP-STDP, and what it lets through."""
    for i in range(work.calcium.size):
        work.calcium[i] = _calcium_step(work.calcium[i], work.node[i, _FIRED], rule)
        up, down = _ap_gates(work.calcium[i], rule)
        work.up[i] = 1.0 if up else 0.0
        work.down[i] = 1.0 if down else 0.0


@_part
def _deliver(t, n_fired, work, network):  # type: ignore[no-untyped-def]
    """Currents along the out-edges of the sources that fired, in a static liquid."""
    for k in range(n_fired):
        j = work.spiked[k]
        gain = _saturate(t, j, work)
        for e in range(network.source_offset[j], network.source_offset[j + 1]):
            work.node[network.target[e], _CURRENT] += work.weight[e] * gain


@_part
def _deliver_and_learn(t, n_fired, n_listed, lr, depression, work, network, how):  # type: ignore[no-untyped-def]
    """Currents, and changes at source spikes, along the same edges; returns the number of listed sources."""
    c_next = work.factor[1]
    for k in range(n_fired):
        j = work.spiked[k]
        gain = _saturate(t, j, work)
        if not work.listed[j]:
            n_listed = _list_source(j, n_listed, work, network)
        at_target, at_source = _spike_rates(_inhibitory(j, network), lr, depression)
        low, high, x = work.side[j, _LOW], work.side[j, _HIGH], work.x[j]
        for e in range(network.source_offset[j], network.source_offset[j + 1]):
            i, p = network.target[e], work.slot[e]
            old = work.row_weight[p]
            work.node[i, _CURRENT] += old * gain
            by_target, by_source = _pair_terms(1.0, work.node[i, _FIRED], x, work.node[i, _TRACE], at_target, at_source)
            change = by_target + by_source
            if how.gated:
                change = _gated_change(by_target, by_source, work.up[i], work.down[i])
            new = _clipped(old + change, low, high)
            work.row_weight[p] = new
            work.node[i, _LATER] += (new - old) * c_next
    return n_listed


@_part
def _saturate(t, j, work):  # type: ignore[no-untyped-def]
    """The current factor of source j goes up to its maximum at step t; returns by how much."""
    gain = work.factor[0] - work.factor[work.since[j] + t]
    work.since[j] = -t
    return gain


@_part
def _inhibitory(j, network):  # type: ignore[no-untyped-def]
    return network.n_excitatory <= j < network.n_neurons


@_part
def _clipped(weight, low, high):  # type: ignore[no-untyped-def]
    """Written out: numba's min and max also test for NaN."""
    weight = low if weight < low else weight
    return high if weight > high else weight


@_part
def _integrate(n_spiked, work, neuron):  # type: ignore[no-untyped-def]
    """Charge, refractory counters, and decay of the currents."""
    c_decay = np.exp(-1.0 / neuron.tau_syn)
    for i in range(work.v.size):
        work.v[i] = _charge(work.v[i], work.node[i, _CURRENT], neuron.tau_mem)
        work.rest[i] -= 1
        decayed = work.node[i, _CURRENT] * c_decay
        work.node[i, _CURRENT] = (decayed if abs(decayed) > _NEGLIGIBLE else 0.0) + work.node[i, _LATER]
        work.node[i, _LATER] = 0.0
    for k in range(n_spiked):
        work.rest[work.spiked[k]] = neuron.refractory


@_part
def _learn_at_targets(t, n_spiked, n_fired, n_listed, lr, depression, work, network, how):  # type: ignore[no-untyped-def]
    """Changes of the in-edges of the neurons that fired; edges whose source fired too were dealt with along the source."""
    if n_spiked == 0:
        return
    for k in range(n_listed):
        j = work.order[k]
        work.side[j, _C] = work.factor[work.since[j] + t + 1]
        at_target, at_source = _spike_rates(_inhibitory(j, network), lr, depression)
        work.side[j, _PUSH], _ = _pair_terms(0.0, 1.0, work.x[j], 0.0, at_target, at_source)
    for k in range(n_fired):
        work.side[work.spiked[k], _PUSH] = 0.0
    for k in range(n_spiked):
        i = work.spiked[k]
        up, down = work.up[i], work.down[i]
        if how.gated and up == 0.0 and down == 0.0:
            continue
        total = 0.0
        for p in range(network.row_offset[i], work.row_end[i]):
            j = work.row_source[p]
            change = work.side[j, _PUSH]
            if how.gated:
                change = _gated_change(change, 0.0, up, down)
            old = work.row_weight[p]
            new = _clipped(old + change, work.side[j, _LOW], work.side[j, _HIGH])
            work.row_weight[p] = new
            total += (new - old) * work.side[j, _C]
        work.node[i, _CURRENT] += total


@_part
def _trace(n_listed, work, rule):  # type: ignore[no-untyped-def]
    """Traces of the listed sources; those of all others are zero."""
    for k in range(n_listed):
        j = work.order[k]
        work.x[j] = _trace_step(work.x[j] if work.x[j] > _NEGLIGIBLE else 0.0, work.fired[j], rule)
        if j < work.v.size:
            work.node[j, _TRACE] = work.x[j]


@_part
def _hand_on(n_listed, work, network, how, state):  # type: ignore[no-untyped-def]
    """Carried weights, traces and calcium for the next sample."""
    if how.carried and how.plastic:
        for k in range(n_listed):
            for e in range(network.source_offset[work.order[k]], network.source_offset[work.order[k] + 1]):
                work.weight[e] = work.row_weight[work.slot[e]]
    if state.trace.size > 0:
        state.trace[:] = work.x
    if state.calcium.size > 0:
        state.calcium[:] = work.calcium


def _revision() -> str:
    """Digest of the shared functions: numba's cache notices changes in this file alone."""
    codes = [function.__code__ for function in _SHARED]
    return hashlib.sha256(repr([(c.co_code, c.co_consts, c.co_names) for c in codes]).encode()).hexdigest()


simulate_samples = _compile(_revision())
