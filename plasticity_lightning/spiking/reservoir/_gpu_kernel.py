"""The reservoir on a GPU: one thread block a lane, a whole call in one launch, threads over neurons.

The arithmetic of a neuron is `_cpu_kernel`'s, compiled for CUDA, and the order of additions is the same: charges arrive
source by source, ascending, since the block visits the sources that fired in turn and a source's targets are distinct;
long sums are left to one thread. Products go through `product`, so that none is fused with a sum. `__syncthreads`
orders global memory within a block, so all arrays live there and no size is limited by shared memory.
"""

from __future__ import annotations

from numba import cuda, float32, int32, uint64

from plasticity_lightning.spiking._cuda_product import product
from plasticity_lightning.spiking._splitmix_kernel import random_bits
from plasticity_lightning.spiking.reservoir._cpu_kernel import decayed, quantiles, step_2003, step_capacitance

__all__ = ["simulate_lanes"]


@cuda.jit
def simulate_lanes(  # type: ignore[no-untyped-def]
    n_steps,
    start,
    keys,
    break_offsets,
    break_step,
    break_level,
    capacitance_form,
    cells,
    dt,
    n_excitatory,
    offsets,
    target,
    weight,
    channels,
    noise,
    table,
    filters,
    readout,
    every,
    v,
    u,
    first,
    second,
    inhibitory,
    rising,
    decaying,
    encoder,
    decoder,
    inverse,
    loop_output,
    wanted,
    learn,
    period,
    forgetting,
    stale_gain,
    work,
    fired,
    words,
    traces,
    counts,
    n_spikes,
    output,
    spikes,
):
    """Run every lane for its n_steps, changing the state's arrays in place; see `gpu.simulate_gpu` for the arguments."""
    lane = cuda.blockIdx.x
    me = cuda.threadIdx.x
    n_threads = cuda.blockDim.x
    n = v.shape[1]
    n_words = (n + 31) // 32
    n_outputs = loop_output.shape[1]
    record = spikes.shape[1] > 0
    bias = cells.shape[1] - 1
    next_break = break_offsets[lane]

    for i in range(me, n, n_threads):
        work[lane, 0, i] = cells[lane, bias, i]
    for w in range(me, n_words, n_threads):
        words[lane, w] = 0
    cuda.syncthreads()
    for t in range(n_steps[lane]):
        if next_break < break_offsets[lane + 1] and break_step[next_break] == t:
            for i in range(me, n, n_threads):
                base = cells[lane, bias, i]
                for s in range(channels.shape[1]):
                    level = break_level[next_break, s]
                    if level != 0.0:
                        base += product(level, channels[lane, s, i])
                work[lane, 0, i] = base
            next_break += 1

        for i in range(me, n, n_threads):
            x = work[lane, 0, i] + (first[lane, i] + second[lane, i] + inhibitory[lane, i])
            if noise[lane] > 0.0:
                bits = random_bits(keys[lane], uint64((start[lane] + t) * ((n + 1) // 2) + i // 2))
                one, other = quantiles(bits >> uint64(24) if i % 2 else bits)
                x += product(noise[lane], table[one] + table[other])
            for k in range(n_outputs):
                x += product(encoder[lane, i, k], loop_output[lane, k])
            old = v[lane, i]
            old_u = u[lane, i]
            if capacitance_form:
                new, new_u = step_capacitance(
                    old,
                    old_u,
                    x,
                    cells[lane, 0, i],
                    cells[lane, 1, i],
                    cells[lane, 2, i],
                    cells[lane, 3, i],
                    cells[lane, 6, i],
                    cells[lane, 7, i],
                    dt,
                )
                spike = new >= cells[lane, 4, i]
                reset = cells[lane, 5, i]
                jump = cells[lane, 8, i]
            else:
                new, new_u = step_2003(old, old_u, x, cells[lane, 0, i], cells[lane, 1, i])
                spike = new >= 30.0
                reset = cells[lane, 2, i]
                jump = cells[lane, 3, i]
            v[lane, i] = reset if spike else new
            u[lane, i] = new_u + jump if spike else new_u
            work[lane, 1, i] = 0.0
            work[lane, 2, i] = 0.0
            fired[lane, i] = 1 if spike else 0
            if spike:
                cuda.atomic.or_(words, (lane, i // 32), int32(1) << int32(i % 32))
                counts[lane, i] += 1
                if record:
                    spikes[lane, t, i] = 1
        cuda.syncthreads()

        total = 0
        for w in range(n_words):  # all threads read the same word: the branches below do not diverge
            word = words[lane, w]
            if word != 0:
                for bit in range(32):
                    if (word >> int32(bit)) & int32(1):
                        total += 1
                        j = 32 * w + bit
                        kind = 1 if j < n_excitatory else 2
                        for e in range(offsets[lane, j] + me, offsets[lane, j + 1], n_threads):
                            work[lane, kind, target[e]] += weight[e]
                        cuda.syncthreads()
        if me == 0:
            n_spikes[lane, t] = total
        cuda.syncthreads()
        for w in range(me, n_words, n_threads):
            words[lane, w] = 0

        for i in range(me, n, n_threads):
            charge = work[lane, 1, i]
            first[lane, i] = decayed(first[lane, i], filters[0]) + product(filters[1], charge)
            second[lane, i] = decayed(second[lane, i], filters[2]) + product(filters[3], charge)
            inhibitory[lane, i] = decayed(inhibitory[lane, i], filters[4]) + product(filters[5], work[lane, 2, i])
            rising[lane, i] = decayed(rising[lane, i], readout[0]) + fired[lane, i]
            decaying[lane, i] = decayed(decaying[lane, i], readout[1]) + fired[lane, i]
            rate = product(decaying[lane, i] - rising[lane, i], readout[2])
            work[lane, 3, i] = rate
            if (t + 1) % every == 0:
                traces[lane, (t + 1) // every - 1, i] = float32(rate)
        cuda.syncthreads()

        if n_outputs > 0:
            for k in range(me, n_outputs, n_threads):
                z = 0.0
                for i in range(n):
                    z += product(decoder[lane, k, i], work[lane, 3, i])
                loop_output[lane, k] = z
                output[lane, t, k] = z
            cuda.syncthreads()
            if learn.shape[1] > 0 and learn[lane, t] and (start[lane] + t + 1) % period == 0:
                for i in range(me, n, n_threads):
                    gain = 0.0
                    for j in range(n):
                        gain += product(inverse[lane, j, i], work[lane, 3, j])
                    work[lane, 4, i] = gain
                cuda.syncthreads()
                if me == 0:
                    power = 0.0
                    for i in range(n):
                        power += product(work[lane, 3, i], work[lane, 4, i])
                    work[lane, 5, 0] = 1.0 / (forgetting + power)
                cuda.syncthreads()
                scale = work[lane, 5, 0]
                for i in range(me, n, n_threads):
                    gain = work[lane, 4, i]
                    step = gain if stale_gain else product(gain, scale)
                    for k in range(n_outputs):
                        decoder[lane, k, i] -= product(loop_output[lane, k] - wanted[lane, t, k], step)
                    for j in range(n):
                        new = inverse[lane, j, i] - product(product(work[lane, 4, j], gain), scale)
                        inverse[lane, j, i] = new if forgetting == 1.0 else new / forgetting
                cuda.syncthreads()
