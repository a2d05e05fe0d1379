"""Compiled event-driven simulation of a plastic liquid: work only where a spike is.

The synaptic current obeys I <- exp(-1/tau_syn) * I; a spike of source j adds W_ij * (c_max - c_j) and sets c_j to c_max, a weight change dW
adds dW * c_j. So one step costs the out-edges of the sources that fired plus the in-edges of the neurons that fired. Of the latter, only edges
whose source has fired before in this sample can change (its trace is zero otherwise). Their weights live in rows, one a neuron, that grow as
sources fire for the first time: the loop over a row reads weights in order and gathers the rest from tables of 32 bytes an entry, one cache
line for all that an edge needs of its source (`side`) or of its target (`node`). Clips are written out, since numba's min and max also test
for NaN, and indices are unsigned, which spares a test for negative ones. Everything is float64, so that rounding does not decide a spike.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["simulate_samples"]

_CURRENT, _LATER, _TRACE, _FIRED = (
    0,
    1,
    2,
    3,
)  # columns of node: synaptic current, its plastic change, STDP trace, spike of this step
_PUSH, _LOW, _HIGH, _C = (
    0,
    1,
    2,
    3,
)  # columns of side: change by a postsynaptic spike, bounds of the weight, current factor
_NEGLIGIBLE = 1e-200  # below it a decaying value is set to 0: subnormal arithmetic is a hundred times slower


@njit(nogil=True, cache=True, inline="always")
def _list_source(j, source_offset, target, weight, slot, row_weight, row_source, row_end):  # type: ignore[no-untyped-def]
    """Append the out-edges of source j to the rows of their targets."""
    for e in range(source_offset[j], source_offset[j + 1]):
        p = row_end[target[e]]
        slot[e] = p
        row_weight[p] = weight[e]
        row_source[p] = j
        row_end[target[e]] = p + 1


@njit(nogil=True, cache=True)
def simulate_samples(  # type: ignore[no-untyped-def]
    first,
    last,
    n_steps,
    offsets,
    channels,
    source_offset,
    target,
    row_offset,
    weight,
    carried,
    n_neurons,
    n_excitatory,
    neuron,
    plastic,
    rule,
    gated,
    modulated,
    astrocyte,
    senses_liquid,
    senses_input,
    rate_decay,
    trace,
    calcium,
    counts,
    n_liquid,
    n_input,
    modulation,
    spikes,
):
    """Simulate samples first..last-1, filling the output arrays' rows; see `plasticity_lightning.spiking.liquid.cpu` for arguments."""
    tau_mem, tau_syn, v_threshold, v_reset, refractory, pulse = neuron
    lr_start, increment, trace_decay, w_max, theta, delta, tau_calcium = rule
    w_astro_start, b_astro_start, tau_astro = astrocyte
    n_sources = source_offset.size - 1
    n_inputs = n_sources - n_neurons
    n_edges = target.size
    carry_trace = trace.size > 0
    carry_calcium = calcium.size > 0
    record = spikes.size > 0

    w = weight if carried else np.empty(n_edges)
    c_max = 1.0 / tau_syn
    c_decay = np.exp(-1.0 / tau_syn)
    c_start = np.exp(-20.0 / tau_syn) / tau_syn
    resting_drive = np.zeros(n_neurons)

    v = np.empty(n_neurons)
    node = np.zeros((n_neurons, 4))
    rest = np.empty(n_neurons, dtype=np.int64)
    pass_up = np.ones(n_neurons)
    pass_down = np.ones(n_neurons)
    ca = np.zeros(n_neurons)
    v_in = np.empty(n_inputs)
    rest_in = np.empty(n_inputs, dtype=np.int64)
    x = np.empty(n_sources)
    listed = np.empty(n_sources, dtype=np.bool_)
    slot = np.empty(n_edges, dtype=np.uint32)  # place of a listed edge in the rows
    row_weight = np.empty(n_edges)
    row_source = np.empty(n_edges, dtype=np.uint32)
    row_end = np.empty(n_neurons, dtype=np.int64)
    order = np.empty(n_sources, dtype=np.int64)  # listed sources
    side = np.zeros((n_sources, 4))
    for j in range(n_sources):
        side[j, _LOW] = 0.0 if j < n_excitatory else -w_max
        side[j, _HIGH] = 0.0 if n_excitatory <= j < n_neurons else w_max
    active = np.empty(n_inputs, dtype=np.int64)  # channels that carry a pulse in this sample (or a trace from the last)
    is_active = np.empty(n_inputs, dtype=np.bool_)
    spiked = np.empty(n_neurons, dtype=np.int64)
    sources = np.empty(n_sources, dtype=np.int64)

    for b in range(first, last):
        if not carried:
            w[:] = weight
        if carried or b == first:
            resting_drive[:] = 0.0
            for e in range(n_edges):
                resting_drive[target[e]] += w[e] * c_start
        v[:] = 0.0
        v_in[:] = 0.0
        rest[:] = 0
        rest_in[:] = 0
        node[:, _CURRENT] = resting_drive
        side[:, _C] = c_start
        is_active[:] = False
        n_active = 0
        listed[:] = False
        n_listed = 0
        for i in range(n_neurons):
            row_end[i] = row_offset[i]
        if carry_trace:
            x[:] = trace
            for j in range(n_sources):
                if x[j] > 0.0:
                    listed[j] = True
                    order[n_listed] = j
                    n_listed += 1
                    _list_source(j, source_offset, target, w, slot, row_weight, row_source, row_end)
                    if j >= n_neurons:
                        is_active[j - n_neurons] = True
                        active[n_active] = j - n_neurons
                        n_active += 1
        else:
            x[:] = 0.0
        node[:, _TRACE] = x[:n_neurons]
        if carry_calcium:
            ca[:] = calcium
        else:
            ca[:] = 0.0
        for k in range(offsets[b * n_steps], offsets[(b + 1) * n_steps]):
            if not is_active[channels[k]]:
                is_active[channels[k]] = True
                active[n_active] = channels[k]
                n_active += 1
        lr = lr_start
        w_astro = w_astro_start
        b_astro = b_astro_start
        depression = b_astro if modulated else lr

        for t in range(n_steps):
            # spike test and reset
            n_spiked = 0
            for i in range(n_neurons):
                if v[i] >= v_threshold and rest[i] <= 0:
                    spiked[n_spiked] = i
                    n_spiked += 1
            n_sources_fired = n_spiked
            sensed = 0
            for k in range(n_spiked):
                i = spiked[k]
                v[i] = v_reset
                node[i, _FIRED] = 1.0
                sources[k] = i
                counts[b, i] += 1
                sensed += senses_liquid[i]
                if record:
                    spikes[b, t, i] = 1
            sensed_input = 0
            for k in range(n_active):
                a = active[k]
                if v_in[a] >= v_threshold and rest_in[a] <= 0:
                    v_in[a] = v_reset
                    rest_in[a] = refractory + 1  # one more: the loop below counts this step down
                    sources[n_sources_fired] = n_neurons + a
                    n_sources_fired += 1
                    sensed_input += senses_input[a]
                v_in[a] -= v_in[a] / tau_mem
                rest_in[a] -= 1
            for k in range(offsets[b * n_steps + t], offsets[b * n_steps + t + 1]):
                v_in[channels[k]] += pulse
            n_liquid[b, t] = n_spiked
            n_input[b, t] = n_sources_fired - n_spiked

            if gated:
                for i in range(n_neurons):
                    ca[i] += node[i, _FIRED] - ca[i] / tau_calcium
                    pass_up[i] = 1.0 if theta < ca[i] < theta + delta else 0.0
                    pass_down[i] = 1.0 if theta - delta < ca[i] < theta else 0.0

            # deliveries, and the part of STDP that runs along the out-edges of the sources that fired
            for k in range(n_sources_fired):
                j = sources[k]
                gain = c_max - side[j, _C]
                side[j, _C] = c_max
                begin = source_offset[j]
                end = source_offset[j + 1]
                if not plastic:
                    for e in range(begin, end):
                        node[target[e], _CURRENT] += w[e] * gain
                    continue
                if not listed[j]:
                    listed[j] = True
                    order[n_listed] = j
                    n_listed += 1
                    _list_source(j, source_offset, target, w, slot, row_weight, row_source, row_end)
                if n_excitatory <= j < n_neurons:
                    at_source, at_target = lr, -depression * x[j]
                else:
                    at_source, at_target = -depression, lr * x[j]
                low = side[j, _LOW]
                high = side[j, _HIGH]
                c_next = c_max * c_decay
                for e in range(begin, end):
                    i = target[e]
                    p = slot[e]
                    old = row_weight[p]
                    node[i, _CURRENT] += old * gain
                    pre = at_source * node[i, _TRACE]
                    post = at_target * node[i, _FIRED]
                    change = pre + post
                    if gated:
                        up = max(pre, 0.0) + max(post, 0.0)
                        down = min(pre, 0.0) + min(post, 0.0)
                        change = pass_up[i] * up + pass_down[i] * down
                    new = old + change
                    new = low if new < low else new
                    new = high if new > high else new
                    row_weight[p] = new
                    node[i, _LATER] += (new - old) * c_next

            # integrate, then decay of the synaptic current
            for i in range(n_neurons):
                v[i] += node[i, _CURRENT] - v[i] / tau_mem
                rest[i] -= 1
                decayed = node[i, _CURRENT] * c_decay
                node[i, _CURRENT] = (decayed if abs(decayed) > _NEGLIGIBLE else 0.0) + node[i, _LATER]
                node[i, _LATER] = 0.0
            for k in range(n_spiked):
                rest[spiked[k]] = refractory
            for j in range(n_neurons):
                side[j, _C] = side[j, _C] * c_decay if side[j, _C] > _NEGLIGIBLE else 0.0
            for k in range(n_active):
                j = n_neurons + active[k]
                side[j, _C] = side[j, _C] * c_decay if side[j, _C] > _NEGLIGIBLE else 0.0

            if plastic:
                # the other part: in-edges of the neurons that fired; edges whose source fired too were dealt with above
                for k in range(n_listed):
                    j = order[k]
                    side[j, _PUSH] = (-depression if n_excitatory <= j < n_neurons else lr) * x[j]
                for k in range(n_sources_fired):
                    side[sources[k], _PUSH] = 0.0
                for k in range(n_spiked):
                    i = spiked[k]
                    begin = row_offset[i]
                    end = row_end[i]
                    total = 0.0
                    if gated:
                        up = pass_up[i]
                        down = pass_down[i]
                        if up == 0.0 and down == 0.0:
                            continue
                        for p in range(begin, end):
                            j = row_source[p]
                            old = row_weight[p]
                            new = old + (up * max(side[j, _PUSH], 0.0) + down * min(side[j, _PUSH], 0.0))
                            new = side[j, _LOW] if new < side[j, _LOW] else new
                            new = side[j, _HIGH] if new > side[j, _HIGH] else new
                            row_weight[p] = new
                            total += (new - old) * side[j, _C]
                    else:
                        for p in range(begin, end):
                            j = row_source[p]
                            old = row_weight[p]
                            new = old + side[j, _PUSH]
                            new = side[j, _LOW] if new < side[j, _LOW] else new
                            new = side[j, _HIGH] if new > side[j, _HIGH] else new
                            row_weight[p] = new
                            total += (new - old) * side[j, _C]
                    node[i, _CURRENT] += total

                for j in range(n_neurons):
                    x[j] = x[j] * trace_decay if x[j] > _NEGLIGIBLE else 0.0
                for k in range(n_active):
                    j = n_neurons + active[k]
                    x[j] = x[j] * trace_decay if x[j] > _NEGLIGIBLE else 0.0
                for k in range(n_sources_fired):
                    j = sources[k]
                    x[j] += trace_decay * increment
                for i in range(n_neurons):
                    node[i, _TRACE] = x[i]
                if modulated:
                    depression += (w_astro * (sensed - sensed_input) + b_astro - depression) / tau_astro
                modulation[b, t] = depression
                lr *= rate_decay
                depression *= rate_decay
                w_astro *= rate_decay
                b_astro *= rate_decay

            for k in range(n_spiked):
                node[spiked[k], _FIRED] = 0.0

        if carried and plastic:
            for k in range(n_listed):
                for e in range(source_offset[order[k]], source_offset[order[k] + 1]):
                    w[e] = row_weight[slot[e]]
        if carry_trace:
            trace[:] = x
        if carry_calcium:
            calcium[:] = ca
