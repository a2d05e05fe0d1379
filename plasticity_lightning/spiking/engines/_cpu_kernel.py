"""Compiled event-driven simulation of a plastic liquid: work only where a spike is.

The synaptic current obeys I <- exp(-1/tau_syn) * I; a spike of source j adds W_ij * (c_max - c_j) and sets c_j to c_max, a weight change dW
adds dW * c_j. So one step costs the out-edges of the sources that fired plus the in-edges of the neurons that fired. Of the latter, only edges
whose source has fired before in this sample can change (its trace is zero otherwise): a neuron's list of such edges grows as sources fire
for the first time. Everything is float64, so that rounding does not decide a spike.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["simulate_samples"]

_NEGLIGIBLE = 1e-200  # below it a decaying value is set to 0: subnormal arithmetic is a hundred times slower


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
    """Simulate samples first..last-1, filling the output arrays' rows; see `plasticity_lightning.spiking.engines.cpu` for arguments."""
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
    current = np.empty(n_neurons)
    plastic_current = np.zeros(n_neurons)
    rest = np.empty(n_neurons, dtype=np.int64)
    fired = np.zeros(n_neurons)
    pass_up = np.ones(n_neurons)
    pass_down = np.ones(n_neurons)
    ca = np.zeros(n_neurons)
    v_in = np.empty(n_inputs)
    rest_in = np.empty(n_inputs, dtype=np.int64)
    c = np.empty(n_sources)
    x = np.empty(n_sources)
    listed = np.empty(n_sources, dtype=np.bool_)
    just_fired = np.zeros(n_sources, dtype=np.bool_)
    row_edge = np.empty(n_edges, dtype=np.int32)
    row_source = np.empty(n_edges, dtype=np.int32)
    row_end = np.empty(n_neurons, dtype=np.int64)
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
        current[:] = resting_drive
        c[:] = c_start
        is_active[:] = False
        n_active = 0
        listed[:] = False
        for i in range(n_neurons):
            row_end[i] = row_offset[i]
        if carry_trace:
            x[:] = trace
            for j in range(n_sources):
                if x[j] > 0.0:
                    listed[j] = True
                    for e in range(source_offset[j], source_offset[j + 1]):
                        row_edge[row_end[target[e]]] = e
                        row_source[row_end[target[e]]] = j
                        row_end[target[e]] += 1
                    if j >= n_neurons:
                        is_active[j - n_neurons] = True
                        active[n_active] = j - n_neurons
                        n_active += 1
        else:
            x[:] = 0.0
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
                fired[i] = 1.0
                just_fired[i] = True
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
                    just_fired[n_neurons + a] = True
                    sensed_input += senses_input[a]
                v_in[a] -= v_in[a] / tau_mem
                rest_in[a] -= 1
            for k in range(offsets[b * n_steps + t], offsets[b * n_steps + t + 1]):
                v_in[channels[k]] += pulse
            n_liquid[b, t] = n_spiked
            n_input[b, t] = n_sources_fired - n_spiked

            if gated:
                for i in range(n_neurons):
                    ca[i] += fired[i] - ca[i] / tau_calcium
                    pass_up[i] = 1.0 if theta < ca[i] < theta + delta else 0.0
                    pass_down[i] = 1.0 if theta - delta < ca[i] < theta else 0.0

            # deliveries, and the part of STDP that runs along the out-edges of the sources that fired
            for k in range(n_sources_fired):
                j = sources[k]
                gain = c_max - c[j]
                c[j] = c_max
                begin = source_offset[j]
                end = source_offset[j + 1]
                if not plastic:
                    for e in range(begin, end):
                        current[target[e]] += w[e] * gain
                    continue
                if j < n_excitatory:
                    low, high, at_source, at_target = 0.0, w_max, -depression, lr * x[j]
                elif j < n_neurons:
                    low, high, at_source, at_target = -w_max, 0.0, lr, -depression * x[j]
                else:
                    low, high, at_source, at_target = -w_max, w_max, -depression, lr * x[j]
                c_next = c_max * c_decay
                if gated:
                    for e in range(begin, end):
                        i = target[e]
                        old = w[e]
                        current[i] += old * gain
                        pre = at_source * x[i]
                        post = at_target * fired[i]
                        change = pass_up[i] * (max(pre, 0.0) + max(post, 0.0)) + pass_down[i] * (
                            min(pre, 0.0) + min(post, 0.0)
                        )
                        new = min(max(old + change, low), high)
                        w[e] = new
                        plastic_current[i] += (new - old) * c_next
                else:
                    for e in range(begin, end):
                        i = target[e]
                        old = w[e]
                        current[i] += old * gain
                        new = min(max(old + (at_source * x[i] + at_target * fired[i]), low), high)
                        w[e] = new
                        plastic_current[i] += (new - old) * c_next

            # integrate, then decay of the synaptic current
            for i in range(n_neurons):
                v[i] += current[i] - v[i] / tau_mem
                rest[i] -= 1
                decayed = current[i] * c_decay
                current[i] = (decayed if abs(decayed) > _NEGLIGIBLE else 0.0) + plastic_current[i]
                plastic_current[i] = 0.0
            for k in range(n_spiked):
                rest[spiked[k]] = refractory
            for j in range(n_neurons):
                c[j] = c[j] * c_decay if c[j] > _NEGLIGIBLE else 0.0
            for k in range(n_active):
                j = n_neurons + active[k]
                c[j] = c[j] * c_decay if c[j] > _NEGLIGIBLE else 0.0

            if plastic:
                # the other part: in-edges of the neurons that fired; edges whose source fired too were dealt with above
                for k in range(n_spiked):
                    i = spiked[k]
                    drive = 0.0
                    for p in range(row_offset[i], row_end[i]):
                        j = row_source[p]
                        e = row_edge[p]
                        if just_fired[j]:
                            continue
                        old = w[e]
                        inhibitory = n_excitatory <= j < n_neurons
                        change = (-depression if inhibitory else lr) * x[j]
                        if gated:
                            change = pass_up[i] * max(change, 0.0) + pass_down[i] * min(change, 0.0)
                        low = 0.0 if j < n_excitatory else -w_max
                        high = 0.0 if inhibitory else w_max
                        new = min(max(old + change, low), high)
                        w[e] = new
                        drive += (new - old) * c[j]
                    current[i] += drive

                for j in range(n_neurons):
                    x[j] = x[j] * trace_decay if x[j] > _NEGLIGIBLE else 0.0
                for k in range(n_active):
                    j = n_neurons + active[k]
                    x[j] = x[j] * trace_decay if x[j] > _NEGLIGIBLE else 0.0
                for k in range(n_sources_fired):
                    j = sources[k]
                    x[j] += trace_decay * increment
                    if not listed[j]:
                        listed[j] = True
                        for e in range(source_offset[j], source_offset[j + 1]):
                            p = row_end[target[e]]
                            row_edge[p] = e
                            row_source[p] = j
                            row_end[target[e]] = p + 1
                if modulated:
                    depression += (w_astro * (sensed - sensed_input) + b_astro - depression) / tau_astro
                modulation[b, t] = depression
                lr *= rate_decay
                depression *= rate_decay
                w_astro *= rate_decay
                b_astro *= rate_decay

            for k in range(n_spiked):
                fired[spiked[k]] = 0.0
            for k in range(n_sources_fired):
                just_fired[sources[k]] = False

        if carry_trace:
            trace[:] = x
        if carry_calcium:
            calcium[:] = ca
