"""The plastic liquid on a GPU: one thread block a sample, threads over neurons and over the edges of one source.

The same algorithm as `_cpu_kernel`, whose docstring explains it, and for every number the same order of additions: the block visits the sources
that fired in turn, a source's targets are distinct, and a row's total belongs to one thread. So rasters are equal bit for bit. Where a function of
`neurons`, `rules` or `astrocyte` adds no product, it is compiled as it stands; `_pair_terms`, `_gated_change`, `_trace_step` and `_astrocyte_step`
restate theirs with `product`, which the compiler cannot fuse with a sum. All arrays lie in global memory, which `__syncthreads` orders in a block.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from numba import cuda, int32

from plasticity_lightning.spiking import rules
from plasticity_lightning.spiking._cuda_product import product
from plasticity_lightning.spiking.neurons import charge

__all__ = ["Feedback", "Size", "simulate_samples"]

Feedback = namedtuple("Feedback", "weight bias tau")
Size = namedtuple("Size", "n_samples n_steps n_neurons n_excitatory")

_NEGLIGIBLE = 1e-200  # as in _cpu_kernel

_charge: Any = cuda.jit(device=True)(charge)
_calcium_step: Any = cuda.jit(device=True)(rules.calcium_step)
_ap_gates: Any = cuda.jit(device=True)(rules.ap_gates)
_spike_rates: Any = cuda.jit(device=True)(rules.spike_rates)


@cuda.jit(device=True)
def _pair_terms(source_spikes, target_spikes, source_trace, target_trace, at_target, at_source):  # type: ignore[no-untyped-def]
    by_target = product(product(at_target, source_trace), target_spikes)
    return by_target, product(product(at_source, source_spikes), target_trace)


@cuda.jit(device=True)
def _gated_change(at_target, at_source, up, down):  # type: ignore[no-untyped-def]
    positive = ((at_target + abs(at_target)) + (at_source + abs(at_source))) / 2
    negative = ((at_target - abs(at_target)) + (at_source - abs(at_source))) / 2
    return product(positive, up) + product(negative, down)


@cuda.jit(device=True)
def _trace_step(trace, spikes, rule):  # type: ignore[no-untyped-def]
    step = product(product(rule.trace_decay, rule.trace_increment), spikes)
    return product(trace, rule.trace_decay) + step


@cuda.jit(device=True)
def _astrocyte_step(state, n_liquid, n_input, weight, bias, tau):  # type: ignore[no-untyped-def]
    return state + (product(weight, n_liquid - n_input) + bias - state) / tau


@cuda.jit(device=True)
def _clipped(weight, low, high):  # type: ignore[no-untyped-def]
    weight = low if weight < low else weight
    return high if weight > high else weight


@cuda.jit(device=True)
def _listed_edges(me, n_threads, j, source_offset, target, weight, slot, row_weight, row_source, row_end):  # type: ignore[no-untyped-def]
    """Append the out-edges of source j to the rows of their targets, which are distinct."""
    for e in range(source_offset[j] + me, source_offset[j + 1], n_threads):
        i = target[e]
        p = row_end[i]
        slot[e] = p
        row_weight[p] = weight[e]
        row_source[p] = j
        row_end[i] = p + 1


@cuda.jit
def simulate_samples(  # type: ignore[no-untyped-def]
    size,
    neuron,
    rule,
    feedback,
    how,
    c_decay,
    factor,
    source_offset,
    target,
    row_offset,
    low,
    high,
    senses_liquid,
    senses_input,
    train_offsets,
    train_channels,
    resting_drive,
    weight,
    trace,
    calcium_carried,
    real,
    sources_real,
    inputs_real,
    whole,
    sources_whole,
    inputs_whole,
    words,
    slots,
    row_weights,
    row_sources,
    counts,
    n_liquid,
    n_input,
    modulation,
    spikes,
):
    """Simulate all samples, a block each, or one block all of them in turn where something is carried; see `gpu.simulate_gpu`."""
    block, me, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n, n_steps = size.n_neurons, size.n_steps
    n_sources = source_offset.size - 1
    n_inputs = n_sources - n
    n_words, n_input_words = (n + 31) // 32, (n_inputs + 31) // 32
    record = spikes.size > 0
    c_start = factor[n_steps + 1]
    mine = real[block]
    v, current, later, calcium, up, down = mine[0], mine[1], mine[2], mine[3], mine[4], mine[5]
    x, fired, c, push = sources_real[block, 0], sources_real[block, 1], sources_real[block, 2], sources_real[block, 3]
    v_in = inputs_real[block]
    rest, row_end = whole[block, 0], whole[block, 1]
    of_source, of_input = sources_whole[block], inputs_whole[block]
    since, listed, order, spiked = of_source[0], of_source[1], of_source[2], of_source[3]
    rest_in, is_active, active, number = of_input[0], of_input[1], of_input[2], of_input[3]
    word = words[block]
    slot, row_weight, row_source = slots[block], row_weights[block], row_sources[block]

    for b in range(block, size.n_samples, cuda.gridDim.x):
        # everything at rest, apart from what is carried
        if how.carried:
            for i in range(me, n, n_threads):
                resting_drive[i] = 0.0
            cuda.syncthreads()
            for j in range(n_sources):
                for e in range(source_offset[j] + me, source_offset[j + 1], n_threads):
                    resting_drive[target[e]] += product(weight[e], c_start)
                cuda.syncthreads()
        for i in range(me, n, n_threads):
            v[i] = 0.0
            rest[i] = 0
            current[i] = resting_drive[i]
            later[i] = 0.0
            row_end[i] = row_offset[i]
            calcium[i] = calcium_carried[i] if calcium_carried.size > 0 else 0.0
            up[i] = 1.0
            down[i] = 1.0
        for j in range(me, n_sources, n_threads):
            x[j] = trace[j] if trace.size > 0 else 0.0
            fired[j] = 0.0
            since[j] = n_steps + 1
            listed[j] = 0
        for a in range(me, n_inputs, n_threads):
            v_in[a] = 0.0
            rest_in[a] = 0
            is_active[a] = 0
        for w in range(me, n_words + n_input_words, n_threads):
            word[w] = 0
        cuda.syncthreads()
        n_listed = 0
        if trace.size > 0:
            for j in range(n_sources):
                if x[j] > 0.0:
                    _listed_edges(
                        me, n_threads, j, source_offset, target, weight, slot, row_weight, row_source, row_end
                    )
                    if me == 0:
                        listed[j] = 1
                        order[n_listed] = j
                    n_listed += 1
                    cuda.syncthreads()
        if me == 0:  # channels in the order of their first pulse, those with a trace first
            n_active = 0
            if trace.size > 0:
                for j in range(n, n_sources):
                    if x[j] > 0.0:
                        is_active[j - n] = 1
                        active[n_active] = j - n
                        n_active += 1
            for k in range(train_offsets[b * n_steps], train_offsets[(b + 1) * n_steps]):
                a = train_channels[k]
                if is_active[a] == 0:
                    is_active[a] = 1
                    active[n_active] = a
                    n_active += 1
            number[0] = n_active
        cuda.syncthreads()
        n_active = number[0]
        lr, w_astro, b_astro = rule.lr, feedback.weight, feedback.bias
        depression = b_astro if how.modulated else lr

        for t in range(n_steps):
            # spike test and reset of liquid and channels
            for i in range(me, n, n_threads):
                if v[i] >= neuron.v_threshold and rest[i] <= 0:
                    v[i] = neuron.v_reset
                    fired[i] = 1.0
                    counts[b, i] += 1
                    cuda.atomic.or_(word, i // 32, int32(1) << int32(i % 32))
                    if record:
                        spikes[b, t, i] = 1
            for k in range(me, n_active, n_threads):
                a = active[k]
                if v_in[a] >= neuron.v_threshold and rest_in[a] <= 0:
                    v_in[a] = neuron.v_reset
                    rest_in[a] = neuron.refractory + 1  # one more: this very step is counted down below
                    fired[n + a] = 1.0
                    cuda.atomic.or_(word, n_words + k // 32, int32(1) << int32(k % 32))
                v_in[a] = _charge(v_in[a], 0.0, neuron.tau_mem)
                rest_in[a] -= 1
            cuda.syncthreads()
            for k in range(train_offsets[b * n_steps + t] + me, train_offsets[b * n_steps + t + 1], n_threads):
                v_in[train_channels[k]] += neuron.pulse  # channels are distinct within a step
            if me == 0:  # the sources that fired, liquid first, channels in the order of `active`
                n_fired, sensed, sensed_input = 0, 0, 0
                for w in range(n_words):
                    if word[w] != 0:
                        for bit in range(32):
                            if (word[w] >> int32(bit)) & int32(1):
                                spiked[n_fired] = 32 * w + bit
                                sensed += senses_liquid[32 * w + bit]
                                n_fired += 1
                n_liquid[b, t] = n_fired
                for w in range(n_input_words):
                    if word[n_words + w] != 0:
                        for bit in range(32):
                            if (word[n_words + w] >> int32(bit)) & int32(1):
                                a = active[32 * w + bit]
                                spiked[n_fired] = n + a
                                sensed_input += senses_input[a]
                                n_fired += 1
                n_input[b, t] = n_fired - n_liquid[b, t]
                number[0] = n_fired
                number[1] = sensed
                number[2] = sensed_input
            if how.gated:
                for i in range(me, n, n_threads):
                    calcium[i] = _calcium_step(calcium[i], fired[i], rule)
                    passes_up, passes_down = _ap_gates(calcium[i], rule)
                    up[i] = 1.0 if passes_up else 0.0
                    down[i] = 1.0 if passes_down else 0.0
            cuda.syncthreads()
            n_fired, n_spiked = number[0], n_liquid[b, t]
            for w in range(me, n_words + n_input_words, n_threads):
                word[w] = 0

            # currents, and changes at source spikes, along the out-edges of the sources that fired
            for k in range(n_fired):
                j = spiked[k]
                gain = factor[0] - factor[since[j] + t]
                is_inhibitory = size.n_excitatory <= j and j < n
                at_target, at_source = _spike_rates(is_inhibitory, lr, depression)
                if how.plastic and listed[j] == 0:
                    _listed_edges(
                        me, n_threads, j, source_offset, target, weight, slot, row_weight, row_source, row_end
                    )
                    n_listed += 1
                for e in range(source_offset[j] + me, source_offset[j + 1], n_threads):
                    i = target[e]
                    if how.plastic:
                        p = slot[e]
                        old = row_weight[p]
                        current[i] += product(old, gain)
                        by_target, by_source = _pair_terms(1.0, fired[i], x[j], x[i], at_target, at_source)
                        change = by_target + by_source
                        if how.gated:
                            change = _gated_change(by_target, by_source, up[i], down[i])
                        new = _clipped(old + change, low[j], high[j])
                        row_weight[p] = new
                        later[i] += product(new - old, factor[1])
                    else:
                        current[i] += product(weight[e], gain)
                cuda.syncthreads()
                if me == 0:
                    since[j] = -t
                    if how.plastic and listed[j] == 0:
                        listed[j] = 1
                        order[n_listed - 1] = j
            cuda.syncthreads()

            # charge, refractory counters, decay of the currents
            for i in range(me, n, n_threads):
                v[i] = _charge(v[i], current[i], neuron.tau_mem)
                rest[i] = neuron.refractory if fired[i] > 0.0 else rest[i] - 1
                decayed = product(current[i], c_decay)
                current[i] = (decayed if abs(decayed) > _NEGLIGIBLE else 0.0) + later[i]
                later[i] = 0.0

            if how.plastic:
                # changes of the in-edges of the neurons that fired; edges whose source fired too were dealt with above
                if n_spiked > 0:
                    for k in range(me, n_listed, n_threads):
                        j = order[k]
                        c[j] = factor[since[j] + t + 1]
                        at_target, at_source = _spike_rates(size.n_excitatory <= j and j < n, lr, depression)
                        pushed, _ = _pair_terms(0.0, 1.0, x[j], 0.0, at_target, at_source)
                        push[j] = 0.0 if fired[j] > 0.0 else pushed
                    cuda.syncthreads()
                    for k in range(me, n_spiked, n_threads):
                        i = spiked[k]
                        if how.gated and up[i] == 0.0 and down[i] == 0.0:
                            continue
                        total = 0.0
                        for p in range(row_offset[i], row_end[i]):
                            j = row_source[p]
                            change = push[j]
                            if how.gated:
                                change = _gated_change(change, 0.0, up[i], down[i])
                            old = row_weight[p]
                            new = _clipped(old + change, low[j], high[j])
                            row_weight[p] = new
                            total += product(new - old, c[j])
                        current[i] += total
                cuda.syncthreads()
                for k in range(me, n_listed, n_threads):
                    j = order[k]
                    x[j] = _trace_step(x[j] if x[j] > _NEGLIGIBLE else 0.0, fired[j], rule)
                if how.modulated:
                    depression = _astrocyte_step(depression, number[1], number[2], w_astro, b_astro, feedback.tau)
                if me == 0:
                    modulation[b, t] = depression
                lr *= how.rate_decay
                depression *= how.rate_decay
                w_astro *= how.rate_decay
                b_astro *= how.rate_decay
            cuda.syncthreads()
            for k in range(me, n_fired, n_threads):
                fired[spiked[k]] = 0.0
            cuda.syncthreads()

        # what the next sample takes over
        if how.carried and how.plastic:
            for k in range(n_listed):
                for e in range(source_offset[order[k]] + me, source_offset[order[k] + 1], n_threads):
                    weight[e] = row_weight[slot[e]]
        if trace.size > 0:
            for j in range(me, n_sources, n_threads):
                trace[j] = x[j]
        if calcium_carried.size > 0:
            for i in range(me, n, n_threads):
                calcium_carried[i] = calcium[i]
        cuda.syncthreads()
