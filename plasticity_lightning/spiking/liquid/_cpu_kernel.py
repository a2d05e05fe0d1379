"""Compiled event-driven simulation of a plastic liquid: work only where a spike is.

The synaptic current obeys I <- exp(-1/tau_syn) * I; a spike of source j adds W_ij * (c_max - c_j) and sets c_j to c_max, a weight change dW
adds dW * c_j: `synapses.saturating_synapse_step`, seen from the events. So one step costs the out-edges of the sources that fired plus the
in-edges of the neurons that fired. Of the latter, only edges whose source has fired before in this sample can change (its trace is zero otherwise).
A source gets a rank when it fires for the first time; only then are its weights copied for this sample, behind those of the ranks before it, and
listed in the rows of their targets. So what a sample touches lies close together, in the order of the ranks. Indices are
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

__all__ = [
    "NEGLIGIBLE",
    "START_CLOCK",
    "Activity",
    "Feedback",
    "How",
    "Network",
    "Neuron",
    "Rule",
    "State",
    "Trains",
    "simulate_samples",
]

# Arguments of the kernel; a neuron and a rule have the fields of the dataclasses that the shared functions expect.
Network = namedtuple("Network", "source_offset target row_offset low high n_neurons n_excitatory")
Trains = namedtuple("Trains", "offsets channels n_steps")
Neuron = namedtuple("Neuron", [f.name for f in fields(NeuronParameters)])  # type: ignore[misc]
Rule = namedtuple("Rule", [f.name for f in fields(APSTDP)])  # type: ignore[misc]
Feedback = namedtuple("Feedback", "weight bias tau senses_liquid senses_input")
How = namedtuple("How", "plastic gated modulated carried rate_decay")
State = namedtuple("State", "weight trace calcium")  # trace and calcium are of size 0 where they are not carried
Activity = namedtuple("Activity", "counts n_liquid n_input modulation spikes")  # spikes is of size 0 where not recorded

# What the simulation of a sample works on, by liquid neuron [N], active input channel [C], source by its rank [N + C] or edge [E]:
#   v, ready, free_at [N], v_in, ready_in, free_in [C]: potential, whether it is at the threshold, first step in which it may fire
#   current, later [N]: synaptic current and its plastic change;  target_trace, fired [N]: STDP trace, 1.0 where there is a spike in this step
#   calcium, up, down [N]: of AP-STDP, with its gates as 0.0 or 1.0;  no_current [C]: zeros;  resting_drive [N]: current at the start
#   place [C]: of each channel among those that carry a pulse or a trace in this sample, else _NONE;  active [C]: those channels
#   rank [N + C]: of each source in the order in which they first fire in this sample, _NONE before;  source: of a rank
#   factor, trace, push, low, high, inhibitory, fires: of a rank: current factor, STDP trace, change by a target's spike, bounds, kind, 1.0 at a spike
#   weight [E]: at the start of the sample, shared by private samples, which never write it;  own [E]: copies of it, from first of a rank on
#   row_edge, row_rank [E], row_end [N]: the in-edges of each neuron, as places in `own` and ranks;  spiked: the sources that fire, liquid first
_Work = namedtuple(
    "_Work",
    "v ready free_at v_in ready_in free_in current later target_trace fired calcium up down no_current resting_drive "
    "place active rank source factor trace push low high inhibitory fires weight own first row_edge row_rank row_end spiked",
)
_NONE = -1
_USUAL_TAU = NeuronParameters().tau_mem
NEGLIGIBLE = 1e-200  # below it a decaying value is set to 0: subnormal arithmetic is a hundred times slower
START_CLOCK = 20.0  # ms since the last spike of every source at the start of a sample, as `SaturatingSynapse` has it


def _part(function: Callable[..., Any]) -> Any:
    return njit(nogil=True, inline="always")(function)


def _stage(function: Callable[..., Any]) -> Any:
    """A part with loops of its own. It allocates nothing and needs no count of references, which took half of a step for the arrays of `_Work`."""
    without_counts: dict[str, Any] = {"_nrt": False}
    return njit(nogil=True, error_model="numpy", **without_counts)(function)


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
        work = _workspace(network, state)
        for b in range(first, last):
            n_active, n_ranked = _start(b, work, network, trains, neuron, how, state, how.carried or b == first)
            n_ranked = _run(b, n_active, n_ranked, work, network, trains, neuron, rule, feedback, how, activity)
            _hand_on(n_ranked, work, network, how, state)

    return simulate_samples


@_part
def _workspace(network, state):  # type: ignore[no-untyped-def]
    n, n_sources, n_edges = network.n_neurons, network.source_offset.size - 1, network.target.size
    c = n_sources - n
    return _Work(
        np.empty(n),
        np.zeros((n + 7) // 8 * 8, dtype=np.uint8),
        np.empty(n, dtype=np.int64),
        np.empty(c),
        np.zeros((c + 7) // 8 * 8, dtype=np.uint8),
        np.empty(c, dtype=np.int64),
        np.empty(n),
        np.zeros(n),
        np.empty(n),
        np.zeros(n),
        np.empty(n),
        np.ones(n),
        np.ones(n),
        np.zeros(c),
        np.empty(n),
        np.empty(c, dtype=np.int64),
        np.empty(c, dtype=np.int64),
        np.empty(n_sources, dtype=np.int64),
        np.empty(n_sources, dtype=np.int64),
        np.empty(n_sources),
        np.empty(n_sources),
        np.empty(n_sources),
        np.empty(n_sources),
        np.empty(n_sources),
        np.empty(n_sources, dtype=np.bool_),
        np.zeros(n_sources),
        state.weight,
        np.empty(n_edges),
        np.zeros(n_sources + 1, dtype=np.int64),
        np.empty(n_edges, dtype=np.uint32),
        np.empty(n_edges, dtype=network.target.dtype),
        np.empty(n, dtype=np.int64),
        np.empty(n_sources, dtype=np.int64),
    )


@_stage
def _start(b, work, network, trains, neuron, how, state, new_weights):  # type: ignore[no-untyped-def]
    """Everything at rest, apart from what is carried; returns the numbers of active channels and of ranked sources."""
    n = network.n_neurons
    if new_weights:
        drive, weight, target, factor = work.resting_drive, work.weight, network.target, _start_factor(neuron)
        drive[:] = 0.0
        for e in range(target.size):
            drive[target[e]] += weight[e] * factor
    work.v[:] = 0.0
    work.v_in[:] = 0.0
    work.free_at[:] = 0
    work.free_in[:] = 0
    _copy(work.resting_drive, 0, work.current, 0, n)
    work.target_trace[:] = 0.0
    work.place[:] = _NONE
    work.rank[:] = _NONE
    _copy(network.row_offset, 0, work.row_end, 0, n)
    n_active, n_ranked = 0, 0
    if state.trace.size > 0:
        for j in range(state.trace.size):
            if state.trace[j] > 0.0:
                work.spiked[n_ranked] = j
                n_ranked += 1
        _rank_new(n_ranked, 0, _start_factor(neuron), work, network, how)
        for k in range(n_ranked):
            j = work.source[k]
            work.trace[k] = state.trace[j]
            if j < n:
                work.target_trace[j] = state.trace[j]
            else:
                n_active = _activate(j - n, n_active, work.place, work.active)
    work.calcium[:] = 0.0
    if state.calcium.size > 0:
        _copy(state.calcium, 0, work.calcium, 0, n)
    place, active = work.place, work.active
    for k in range(trains.offsets[b * trains.n_steps], trains.offsets[(b + 1) * trains.n_steps]):
        n_active = _activate(trains.channels[k], n_active, place, active)
    at_rest = np.uint8(1 if neuron.v_threshold <= 0.0 else 0)  # the potential is 0 at the start
    work.ready[:n] = at_rest
    work.ready_in[:n_active] = at_rest
    work.ready_in[n_active:] = 0
    return n_active, n_ranked


@_stage
def _copy(values, begin, into, to, size):  # type: ignore[no-untyped-def]
    values, into = values[begin : begin + size], into[to : to + size]
    for e in range(size):
        into[e] = values[e]


@_part
def _start_factor(neuron):  # type: ignore[no-untyped-def]
    """Current factor of every source at the start of a sample."""
    return np.exp(-START_CLOCK / neuron.tau_syn) / neuron.tau_syn


@_part
def _activate(channel, n_active, place, active):  # type: ignore[no-untyped-def]
    """Put a channel among the active ones; returns how many there are."""
    if place[channel] == _NONE:
        place[channel] = n_active
        active[n_active] = channel
        n_active += 1
    return n_active


@_stage
def _run(b, n_active, n_ranked, work, network, trains, neuron, rule, feedback, how, activity):  # type: ignore[no-untyped-def]
    """All steps of sample b; returns the number of ranked sources."""
    lr, w_astro, b_astro = rule.lr, feedback.weight, feedback.bias
    depression = b_astro if how.modulated else lr
    decay, unranked = np.exp(-1.0 / neuron.tau_syn), _start_factor(neuron)
    for t in range(trains.n_steps):
        n_spiked, sensed = _fire_liquid(b, t, work, neuron, feedback, activity)
        n_fired, sensed_input = _fire_inputs(b, t, n_active, n_spiked, work, network, trains, neuron, feedback)
        activity.n_liquid[b, t] = n_spiked
        activity.n_input[b, t] = n_fired - n_spiked
        n_ranked = _rank_new(n_fired, n_ranked, unranked, work, network, how)
        if how.gated:
            _gate(work, rule)
        if how.plastic:
            _deliver_and_learn(n_fired, lr, depression, decay, work, network, neuron, how)
        else:
            _deliver(n_fired, work, network, neuron)
        _charge_all(work.v, work.current, work.ready, work.v.size, neuron)
        _decay(n_ranked, decay, work, how)
        unranked = _decayed(unranked, decay)
        if how.plastic:
            _learn_at_targets(n_spiked, n_ranked, lr, depression, work, network, how)
            _trace(n_fired, n_ranked, work, rule)
            if how.modulated:
                depression = _astrocyte_step(depression, sensed, sensed_input, w_astro, b_astro, feedback.tau)
            activity.modulation[b, t] = depression
            lr *= how.rate_decay
            depression *= how.rate_decay
            w_astro *= how.rate_decay
            b_astro *= how.rate_decay
        for k in range(n_spiked):
            work.fired[work.spiked[k]] = 0.0
    return n_ranked


@_stage
def _fire_liquid(b, t, work, neuron, feedback, activity):  # type: ignore[no-untyped-def]
    """Spikes and reset; returns the number of spikes and that of sensed ones."""
    spiked, v, fired, free_at, counts = work.spiked, work.v, work.fired, work.free_at, activity.counts
    n_spiked, sensed = _spikes(t, work.ready, free_at, spiked, 0, neuron), 0
    for k in range(n_spiked):
        i = spiked[k]
        v[i] = neuron.v_reset
        fired[i] = 1.0
        counts[b, i] += 1
        sensed += feedback.senses_liquid[i]
        if activity.spikes.size > 0:
            activity.spikes[b, t, i] = 1
    return n_spiked, sensed


@_stage
def _fire_inputs(b, t, n_active, n_spiked, work, network, trains, neuron, feedback):  # type: ignore[no-untyped-def]
    """Spikes, reset, leak and pulses of the channels; returns the number of all spikes and of sensed input spikes."""
    spiked, v, ready, place, active = work.spiked, work.v_in, work.ready_in, work.place, work.active
    n_fired, sensed = _spikes(t, ready, work.free_in, spiked, n_spiked, neuron), 0
    for k in range(n_spiked, n_fired):
        v[spiked[k]] = neuron.v_reset
        a = active[spiked[k]]
        spiked[k] = network.n_neurons + a
        sensed += feedback.senses_input[a]
    _charge_all(v, work.no_current, ready, n_active, neuron)
    for k in range(trains.offsets[b * trains.n_steps + t], trains.offsets[b * trains.n_steps + t + 1]):
        a = place[trains.channels[k]]
        v[a] += neuron.pulse
        ready[a] = v[a] >= neuron.v_threshold
    return n_fired, sensed


@_stage
def _spikes(t, ready, free_at, spiked, n_spiked, neuron):  # type: ignore[no-untyped-def]
    """Append those that fire at step t to `spiked`, eight tests at once; returns its new length."""
    words = ready.view(np.uint64)
    for word in range(words.size):
        if words[word] != 0:
            for i in range(8 * word, 8 * word + 8):
                if ready[i] and free_at[i] <= t:
                    free_at[i] = t + 1 + neuron.refractory
                    spiked[n_spiked] = i
                    n_spiked += 1
    return n_spiked


@_stage
def _charge_all(v, current, ready, n, neuron):  # type: ignore[no-untyped-def]
    """Charge n neurons, and find those at the threshold."""
    if (
        neuron.tau_mem == _USUAL_TAU
    ):  # the compiler makes of the division by a known power of two a product, which has the same bits
        for i in range(n):
            v[i] = _charge(v[i], current[i], _USUAL_TAU)
            ready[i] = v[i] >= neuron.v_threshold
    else:
        for i in range(n):
            v[i] = _charge(v[i], current[i], neuron.tau_mem)
            ready[i] = v[i] >= neuron.v_threshold


@_stage
def _rank_new(n_fired, n_ranked, unranked, work, network, how):  # type: ignore[no-untyped-def]
    """Give a rank to the sources that fire for the first time and, if weights change, copies of them, listed in the rows of their targets.

    Returns the number of ranks; `unranked` is the current factor of all sources without one.
    """
    row_edge, row_rank, row_end, rank, first = work.row_edge, work.row_rank, work.row_end, work.rank, work.first
    for f in range(n_fired):
        j = work.spiked[f]
        if rank[j] != _NONE:
            continue
        k = n_ranked
        n_ranked += 1
        rank[j] = k
        work.source[k] = j
        work.trace[k] = 0.0
        work.factor[k] = unranked
        work.low[k] = network.low[j]
        work.high[k] = network.high[j]
        work.inhibitory[k] = network.n_excitatory <= j < network.n_neurons
        if how.plastic:
            begin, end, to = network.source_offset[j], network.source_offset[j + 1], first[k]
            first[k + 1] = to + end - begin
            _copy(work.weight, begin, work.own, to, end - begin)
            target = network.target[begin:end]
            for e in range(target.size):
                p = row_end[target[e]]
                row_edge[p] = to + e
                row_rank[p] = k
                row_end[target[e]] = p + 1
    return n_ranked


@_stage
def _gate(work, rule):  # type: ignore[no-untyped-def]
    """Calcium of AP-STDP, and what it lets through."""
    calcium, fired, gate_up, gate_down = work.calcium, work.fired, work.up, work.down
    for i in range(calcium.size):
        calcium[i] = _calcium_step(calcium[i], fired[i], rule)
        up, down = _ap_gates(calcium[i], rule)
        gate_up[i] = 1.0 if up else 0.0
        gate_down[i] = 1.0 if down else 0.0


@_stage
def _deliver(n_fired, work, network, neuron):  # type: ignore[no-untyped-def]
    """Currents along the out-edges of the sources that fired, in a static liquid."""
    current, spiked, rank, factor, offset = work.current, work.spiked, work.rank, work.factor, network.source_offset
    for f in range(n_fired):
        j = spiked[f]
        gain = _saturate(rank[j], factor, neuron)
        target, weight = network.target[offset[j] : offset[j + 1]], work.weight[offset[j] : offset[j + 1]]
        for e in range(target.size):
            current[target[e]] += weight[e] * gain


@_stage
def _deliver_and_learn(n_fired, lr, depression, decay, work, network, neuron, how):  # type: ignore[no-untyped-def]
    """Currents, and changes at source spikes, along the same edges."""
    current, later, fired, target_trace, up, down = (
        work.current,
        work.later,
        work.fired,
        work.target_trace,
        work.up,
        work.down,
    )
    offset, first, rank = network.source_offset, work.first, work.rank
    c_next = _decayed(1.0 / neuron.tau_syn, decay)
    for f in range(n_fired):
        j = work.spiked[f]
        k = rank[j]
        gain = _saturate(k, work.factor, neuron)
        work.fires[k] = 1.0
        at_target, at_source = _spike_rates(work.inhibitory[k], lr, depression)
        low, high, x = work.low[k], work.high[k], work.trace[k]
        target, own = network.target[offset[j] : offset[j + 1]], work.own[first[k] : first[k + 1]]
        for e in range(target.size):
            i, old = target[e], own[e]
            current[i] += old * gain
            by_target, by_source = _pair_terms(1.0, fired[i], x, target_trace[i], at_target, at_source)
            change = by_target + by_source
            if how.gated:
                change = _gated_change(by_target, by_source, up[i], down[i])
            new = _clipped(old + change, low, high)
            own[e] = new
            later[i] += (new - old) * c_next


@_part
def _saturate(k, factor, neuron):  # type: ignore[no-untyped-def]
    """The current factor of the source of rank k goes up to its maximum; returns by how much."""
    gain = 1.0 / neuron.tau_syn - factor[k]
    factor[k] = 1.0 / neuron.tau_syn
    return gain


@_part
def _clipped(weight, low, high):  # type: ignore[no-untyped-def]
    """Written out: numba's min and max also test for NaN."""
    weight = low if weight < low else weight
    return high if weight > high else weight


@_part
def _decayed(value, decay):  # type: ignore[no-untyped-def]
    return value * decay if value > NEGLIGIBLE else 0.0


@_stage
def _decay(n_ranked, decay, work, how):  # type: ignore[no-untyped-def]
    """Decay of currents and current factors; plastic changes reach the current."""
    current, later, factor = work.current, work.later, work.factor
    for i in range(current.size):
        decayed = current[i] * decay
        current[i] = decayed if abs(decayed) > NEGLIGIBLE else 0.0
    if how.plastic:
        for i in range(current.size):
            current[i] += later[i]
            later[i] = 0.0
    for k in range(n_ranked):
        factor[k] = _decayed(factor[k], decay)


@_stage
def _learn_at_targets(n_spiked, n_ranked, lr, depression, work, network, how):  # type: ignore[no-untyped-def]
    """Changes of the in-edges of the neurons that fired; edges whose source fired too were dealt with along the source."""
    if n_spiked == 0:
        return
    push, trace, fires, inhibitory = work.push, work.trace, work.fires, work.inhibitory
    of_inhibitory, of_other = _spike_rates(True, lr, depression), _spike_rates(False, lr, depression)
    for k in range(n_ranked):
        at_target = of_inhibitory[0] if inhibitory[k] else of_other[0]
        change, _ = _pair_terms(0.0, 1.0, trace[k], 0.0, at_target, 0.0)
        push[k] = 0.0 if fires[k] > 0.0 else change
    own, factor, low, high = work.own, work.factor, work.low, work.high
    for f in range(n_spiked):
        i = work.spiked[f]
        up, down = work.up[i], work.down[i]
        if how.gated and up == 0.0 and down == 0.0:
            continue
        begin, end = network.row_offset[i], work.row_end[i]
        edges, ranks, total = work.row_edge[begin:end], work.row_rank[begin:end], 0.0
        for p in range(edges.size):
            k, e = ranks[p], edges[p]
            change = push[k]
            if how.gated:
                change = _gated_change(change, 0.0, up, down)
            old = own[e]
            new = _clipped(old + change, low[k], high[k])
            own[e] = new
            total += (new - old) * factor[k]
        work.current[i] += total


@_stage
def _trace(n_fired, n_ranked, work, rule):  # type: ignore[no-untyped-def]
    """Traces of the ranked sources, and of the liquid as targets; those of all others are zero."""
    trace, fires, target_trace, fired = work.trace, work.fires, work.target_trace, work.fired
    for k in range(n_ranked):
        trace[k] = _trace_step(trace[k] if trace[k] > NEGLIGIBLE else 0.0, fires[k], rule)
    for i in range(target_trace.size):
        target_trace[i] = _trace_step(target_trace[i] if target_trace[i] > NEGLIGIBLE else 0.0, fired[i], rule)
    for f in range(n_fired):
        fires[work.rank[work.spiked[f]]] = 0.0


@_stage
def _hand_on(n_ranked, work, network, how, state):  # type: ignore[no-untyped-def]
    """Carried weights, traces and calcium for the next sample."""
    for k in range(n_ranked):
        j = work.source[k]
        if how.carried and how.plastic:
            begin, from_ = network.source_offset[j], work.first[k]
            _copy(work.own, from_, work.weight, begin, work.first[k + 1] - from_)
        if state.trace.size > 0:
            state.trace[j] = work.trace[k]
    if state.calcium.size > 0:
        _copy(work.calcium, 0, state.calcium, 0, work.calcium.size)


def _revision() -> str:
    """Digest of the shared functions: numba's cache notices changes in this file alone."""
    codes = [function.__code__ for function in _SHARED]
    return hashlib.sha256(repr([(c.co_code, c.co_consts, c.co_names) for c in codes]).encode()).hexdigest()


simulate_samples = _compile(_revision())
