"""One lane of the reservoir, a whole call compiled: vector loops over the neurons, synapses touched only where a spike is.

The arithmetic of one neuron in one step is in `step_2003`, `step_capacitance`, `decayed` and `quantiles`, which the CUDA
kernel compiles, too. They restate, in the same order of additions, `izhikevich.izhikevich_step`,
`izhikevich_capacitance_step`, `reference.decay` and `noise.standard_normal`, as `_learn` restates `reference.rls_step`;
tests compare them bit for bit. numba contracts no product and sum into one rounding on a CPU unless asked to
(`fastmath`), which would break that; on CUDA `product` prevents it.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int64, njit, uint64

from plasticity_lightning.spiking._product import product
from plasticity_lightning.spiking._splitmix_kernel import random_bits
from plasticity_lightning.spiking.reservoir.noise import N_QUANTILES

__all__ = ["decayed", "quantiles", "simulate_lane", "step_2003", "step_capacitance"]

_NEGLIGIBLE = 1e-200  # reference.NEGLIGIBLE
_LOWEST = np.uint64(N_QUANTILES - 1)


@njit(nogil=True, cache=True, inline="always")
def _slope(v, u, x):  # type: ignore[no-untyped-def]
    return product(product(0.04, v), v) + product(5.0, v) + 140.0 - u + x


@njit(nogil=True, cache=True, inline="always")
def step_2003(v, u, x, a, b):  # type: ignore[no-untyped-def]
    """(v, u) of the form of 2003 after 1 ms, before the reset of a spike."""
    first = v + product(0.5, _slope(v, u, x))
    first = 30.0 if first > 30.0 else first
    second = first + product(0.5, _slope(first, u, x))
    second = 30.0 if second > 30.0 else second
    new = first if first >= 30.0 else second
    return new, u + product(a, product(b, new) - u)


@njit(nogil=True, cache=True, inline="always")
def step_capacitance(v, u, x, capacitance, k, v_rest, v_threshold, a, b, dt):  # type: ignore[no-untyped-def]
    """(v, u) of the capacitance form after dt ms, before the reset of a spike."""
    above = v - v_rest
    slope = product(product(k, above), v - v_threshold) - u + x
    return v + product(dt, slope) / capacitance, u + product(dt, product(a, product(b, above) - u))


@njit(nogil=True, cache=True, inline="always")
def decayed(x, factor):  # type: ignore[no-untyped-def]
    """Product of x and factor, or 0 where that is negligible."""
    y = product(x, factor)
    return y if abs(y) > _NEGLIGIBLE else 0.0


@njit(nogil=True, cache=True, inline="always")
def quantiles(bits):  # type: ignore[no-untyped-def]
    """Places in the table of the two numbers whose sum is the standard normal number of the lowest 24 bits."""
    return int64(bits & _LOWEST), int64((bits >> uint64(12)) & _LOWEST)


@njit(nogil=True, cache=True)
def _advance_2003(v, u, x, cells, fired):  # type: ignore[no-untyped-def]
    a, b, c, d = cells[0], cells[1], cells[2], cells[3]
    for i in range(v.size):
        new_v, new_u = step_2003(v[i], u[i], x[i], a[i], b[i])
        spike = new_v >= 30.0
        v[i] = c[i] if spike else new_v
        u[i] = new_u + d[i] if spike else new_u
        fired[i] = spike


@njit(nogil=True, cache=True)
def _advance_capacitance(v, u, x, cells, dt, fired):  # type: ignore[no-untyped-def]
    capacitance, k, v_rest, v_threshold, v_peak = cells[0], cells[1], cells[2], cells[3], cells[4]
    v_reset, a, b, d = cells[5], cells[6], cells[7], cells[8]
    for i in range(v.size):
        new_v, new_u = step_capacitance(
            v[i], u[i], x[i], capacitance[i], k[i], v_rest[i], v_threshold[i], a[i], b[i], dt
        )
        spike = new_v >= v_peak[i]
        v[i] = v_reset[i] if spike else new_v
        u[i] = new_u + d[i] if spike else new_u
        fired[i] = spike


@njit(nogil=True, cache=True)
def _add_noise(x, std, key, step, table):  # type: ignore[no-untyped-def]
    n = x.size
    n_pairs = (n + 1) // 2
    base = uint64(step) * uint64(n_pairs)
    for p in range(n // 2):
        bits = random_bits(key, base + uint64(p))
        i, j = quantiles(bits)
        x[2 * p] += std * (table[i] + table[j])
        i, j = quantiles(bits >> uint64(24))
        x[2 * p + 1] += std * (table[i] + table[j])
    if n % 2:
        i, j = quantiles(random_bits(key, base + uint64(n_pairs - 1)))
        x[n - 1] += std * (table[i] + table[j])


@njit(nogil=True, cache=True)
def _learn(decoder, inverse, x, error, gain, forgetting, stale_gain):  # type: ignore[no-untyped-def]
    n = x.size
    gain[:] = 0.0
    for j in range(n):
        for i in range(n):
            gain[i] += inverse[j, i] * x[j]
    power = 0.0
    for i in range(n):
        power += x[i] * gain[i]
    scale = 1.0 / (forgetting + power)
    for k in range(error.size):
        for i in range(n):
            decoder[k, i] -= error[k] * (gain[i] if stale_gain else gain[i] * scale)
    for j in range(n):
        for i in range(n):
            new = inverse[j, i] - (gain[j] * gain[i]) * scale
            inverse[j, i] = new if forgetting == 1.0 else new / forgetting


@njit(nogil=True, cache=True)
def simulate_lane(  # type: ignore[no-untyped-def]
    n_steps,
    start,
    key,
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
    rule,
    work,
    fired,
    traces,
    counts,
    n_spikes,
    output,
    spikes,
):
    """Run one lane for n_steps, changing the state's arrays in place and filling the output's rows; see `cpu.simulate_cpu`."""
    n = v.size
    n_outputs = loop_output.size
    d1, k1, d2, k2, d3, k3 = filters
    d_rise, d_decay, scale = readout
    period, forgetting, stale_gain = rule
    record = spikes.shape[0] > 0
    base, x, charge_excitatory, charge_inhibitory, gain = work[0], work[1], work[2], work[3], work[4]
    error = np.empty(n_outputs)
    bias = cells[cells.shape[0] - 1]
    base[:] = bias
    next_break = 0
    for t in range(n_steps):
        if next_break < break_step.size and break_step[next_break] == t:
            base[:] = bias
            for s in range(channels.shape[0]):
                level = break_level[next_break, s]
                if level != 0.0:
                    for i in range(n):
                        base[i] += level * channels[s, i]
            next_break += 1
        for i in range(n):
            x[i] = base[i] + (first[i] + second[i] + inhibitory[i])
        if noise > 0.0:
            _add_noise(x, noise, key, start + t, table)
        for k in range(n_outputs):
            for i in range(n):
                x[i] += encoder[i, k] * loop_output[k]
        if capacitance_form:
            _advance_capacitance(v, u, x, cells, dt, fired)
        else:
            _advance_2003(v, u, x, cells, fired)

        charge_excitatory[:] = 0.0
        charge_inhibitory[:] = 0.0
        total = 0
        for j in range(n):
            if fired[j]:
                total += 1
                counts[j] += 1
                if record:
                    spikes[t, j] = 1
                if j < n_excitatory:
                    for e in range(offsets[j], offsets[j + 1]):
                        charge_excitatory[target[e]] += weight[e]
                else:
                    for e in range(offsets[j], offsets[j + 1]):
                        charge_inhibitory[target[e]] += weight[e]
        n_spikes[t] = total
        for i in range(n):
            first[i] = decayed(first[i], d1) + k1 * charge_excitatory[i]
            second[i] = decayed(second[i], d2) + k2 * charge_excitatory[i]
            inhibitory[i] = decayed(inhibitory[i], d3) + k3 * charge_inhibitory[i]
            rising[i] = decayed(rising[i], d_rise) + fired[i]
            decaying[i] = decayed(decaying[i], d_decay) + fired[i]

        if n_outputs:
            for i in range(n):
                x[i] = (decaying[i] - rising[i]) * scale
            for k in range(n_outputs):
                z = 0.0
                for i in range(n):
                    z += decoder[k, i] * x[i]
                loop_output[k] = z
                output[t, k] = z
            if learn.size and learn[t] and (start + t + 1) % period == 0:
                for k in range(n_outputs):
                    error[k] = loop_output[k] - wanted[t, k]
                _learn(decoder, inverse, x, error, gain, forgetting, stale_gain)
        if (t + 1) % every == 0:
            row = traces[(t + 1) // every - 1]
            for i in range(n):
                row[i] = float32((decaying[i] - rising[i]) * scale)
