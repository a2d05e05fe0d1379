"""Triton kernels of the spiking nodes: all time steps of a block of neurons in one launch, forward and backward.

Each restates a step function (`neurons.lif_step`, `izhikevich.izhikevich_step`, `izhikevich_capacitance_step`) in float32, in its order of operations
and without contraction of a product and a sum, so that spikes are equal; tests compare them. Sequences are [T, n], contiguous; parameters
[F] serve the neurons n modulo F. The forward pass saves v and u before each
step and v at its end, before the reset (`charged`); the backward pass recomputes the rest.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "capacitance_backward",
    "capacitance_forward",
    "izhikevich_backward",
    "izhikevich_forward",
    "lif_backward",
    "lif_forward",
]


@triton.jit
def _derivative(x, given_ptr, at, mask, alpha, SURROGATE: tl.constexpr):
    """Derivative of the spike function: 0 sigmoid, 1 arc tangent, 2 read from memory."""
    if SURROGATE == 0:
        s = 1.0 / (1.0 + tl.exp(-alpha * tl.abs(x)))  # the derivative is symmetric, and this cannot overflow
        return (1.0 - s) * s * alpha
    elif SURROGATE == 1:
        z = x * (1.5707963267948966 * alpha)
        return 0.5 * alpha / (1.0 + z * z)
    else:
        return tl.load(given_ptr + at, mask=mask, other=0.0)


@triton.jit
def lif_forward(
    x_ptr, v_ptr, rest_ptr, spikes_ptr, charged_ptr, ready_ptr, v_last_ptr, rest_last_ptr,
    T, N, tau, r_tau, threshold, reset, refractory, RECIPROCAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    v = tl.load(v_ptr + n, mask=mask, other=0.0)
    rest = tl.load(rest_ptr + n, mask=mask, other=0)
    for t in range(T):
        at = tl.cast(t, tl.int64) * N + n
        x = tl.load(x_ptr + at, mask=mask, other=0.0)
        leak = v * r_tau if RECIPROCAL else tl.div_rn(v, tau)
        h = v + (x - leak)
        ready = rest <= 0
        fired = (h - threshold >= 0.0) & ready
        v = tl.where(fired, reset, h)
        rest = tl.where(fired, refractory, rest - 1)
        tl.store(spikes_ptr + at, fired.to(tl.float32), mask=mask)
        tl.store(charged_ptr + at, h, mask=mask)
        tl.store(ready_ptr + at, ready.to(tl.int8), mask=mask)
    tl.store(v_last_ptr + n, v, mask=mask)
    tl.store(rest_last_ptr + n, rest, mask=mask)


@triton.jit
def lif_backward(
    gs_ptr, gv_ptr, charged_ptr, ready_ptr, given_ptr, gx_ptr, gv_first_ptr,
    T, N, r_tau, threshold, alpha, SURROGATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    gv = tl.load(gv_ptr + n, mask=mask, other=0.0)
    for step in range(T):
        at = tl.cast(T - 1 - step, tl.int64) * N + n
        h = tl.load(charged_ptr + at, mask=mask, other=0.0)
        ready = tl.load(ready_ptr + at, mask=mask, other=0) != 0
        gs = tl.load(gs_ptr + at, mask=mask, other=0.0)
        above = h - threshold
        fired = (above >= 0.0) & ready
        slope = tl.where(ready, _derivative(above, given_ptr, at, mask, alpha, SURROGATE), 0.0)
        gh = gs * slope + tl.where(fired, 0.0, gv)
        tl.store(gx_ptr + at, gh, mask=mask)
        gv = gh - gh * r_tau
    tl.store(gv_first_ptr + n, gv, mask=mask)


@triton.jit
def izhikevich_forward(
    x_ptr, v_ptr, u_ptr, cells_ptr, spikes_ptr, charged_ptr, v_seq_ptr, u_seq_ptr, v_last_ptr, u_last_ptr,
    T, N, F, dt, half, SUBSTEPS: tl.constexpr, CLAMP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    f = n % F
    a = tl.load(cells_ptr + f, mask=mask, other=0.0)
    b = tl.load(cells_ptr + F + f, mask=mask, other=0.0)
    c = tl.load(cells_ptr + 2 * F + f, mask=mask, other=0.0)
    d = tl.load(cells_ptr + 3 * F + f, mask=mask, other=0.0)
    bias = tl.load(cells_ptr + 4 * F + f, mask=mask, other=0.0)
    v = tl.load(v_ptr + n, mask=mask, other=0.0)
    u = tl.load(u_ptr + n, mask=mask, other=0.0)
    dta = dt * a
    for t in range(T):
        at = tl.cast(t, tl.int64) * N + n
        x = tl.load(x_ptr + at, mask=mask, other=0.0) + bias
        tl.store(v_seq_ptr + at, v, mask=mask)
        tl.store(u_seq_ptr + at, u, mask=mask)
        end = v + half * (0.04 * v * v + 5.0 * v + 140.0 - u + x)
        if CLAMP:
            end = tl.minimum(end, 30.0)
        if SUBSTEPS == 2:
            second = end + half * (0.04 * end * end + 5.0 * end + 140.0 - u + x)
            if CLAMP:
                second = tl.where(end >= 30.0, end, tl.minimum(second, 30.0))
            end = second
        u = u + dta * (b * end - u)
        fired = end - 30.0 >= 0.0
        v = tl.where(fired, c, end)
        u = tl.where(fired, u + d, u)
        tl.store(spikes_ptr + at, fired.to(tl.float32), mask=mask)
        tl.store(charged_ptr + at, end, mask=mask)
    tl.store(v_last_ptr + n, v, mask=mask)
    tl.store(u_last_ptr + n, u, mask=mask)


@triton.jit
def izhikevich_backward(
    gs_ptr, gv_ptr, gu_ptr, x_ptr, cells_ptr, charged_ptr, v_seq_ptr, u_seq_ptr, given_ptr, gx_ptr, gv_first_ptr, gu_first_ptr,
    T, N, F, dt, half, alpha, SUBSTEPS: tl.constexpr, CLAMP: tl.constexpr, SURROGATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    f = n % F
    a = tl.load(cells_ptr + f, mask=mask, other=0.0)
    b = tl.load(cells_ptr + F + f, mask=mask, other=0.0)
    bias = tl.load(cells_ptr + 4 * F + f, mask=mask, other=0.0)
    gv = tl.load(gv_ptr + n, mask=mask, other=0.0)
    gu = tl.load(gu_ptr + n, mask=mask, other=0.0)
    dta = dt * a
    for step in range(T):
        at = tl.cast(T - 1 - step, tl.int64) * N + n
        end = tl.load(charged_ptr + at, mask=mask, other=0.0)
        gs = tl.load(gs_ptr + at, mask=mask, other=0.0)
        v = tl.load(v_seq_ptr + at, mask=mask, other=0.0)
        above = end - 30.0
        fired = above >= 0.0
        g_end = gs * _derivative(above, given_ptr, at, mask, alpha, SURROGATE)
        g_end += tl.where(fired, 0.0, gv) + gu * dta * b
        gu = gu * (1.0 - dta)
        gx = tl.zeros_like(g_end)
        if SUBSTEPS == 2:
            u = tl.load(u_seq_ptr + at, mask=mask, other=0.0)
            x = tl.load(x_ptr + at, mask=mask, other=0.0) + bias
            first = v + half * (0.04 * v * v + 5.0 * v + 140.0 - u + x)
            if CLAMP:
                first = tl.minimum(first, 30.0)
                held = first >= 30.0
                through = tl.where(held, 0.0, g_end)
                g_end = tl.where(held, g_end, 0.0)
            else:
                through = g_end
                g_end = tl.zeros_like(g_end)
            gu -= half * through
            gx += half * through
            g_end += through * (1.0 + half * (0.08 * first + 5.0))
        gu -= half * g_end
        gx += half * g_end
        gv = g_end * (1.0 + half * (0.08 * v + 5.0))
        tl.store(gx_ptr + at, gx, mask=mask)
    tl.store(gv_first_ptr + n, gv, mask=mask)
    tl.store(gu_first_ptr + n, gu, mask=mask)


@triton.jit
def capacitance_forward(
    x_ptr, v_ptr, u_ptr, cells_ptr, spikes_ptr, charged_ptr, v_seq_ptr, u_seq_ptr, v_last_ptr, u_last_ptr,
    T, N, F, dt, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    f = n % F
    capacitance = tl.load(cells_ptr + f, mask=mask, other=1.0)
    k = tl.load(cells_ptr + F + f, mask=mask, other=0.0)
    v_rest = tl.load(cells_ptr + 2 * F + f, mask=mask, other=0.0)
    v_threshold = tl.load(cells_ptr + 3 * F + f, mask=mask, other=0.0)
    v_peak = tl.load(cells_ptr + 4 * F + f, mask=mask, other=0.0)
    v_reset = tl.load(cells_ptr + 5 * F + f, mask=mask, other=0.0)
    a = tl.load(cells_ptr + 6 * F + f, mask=mask, other=0.0)
    b = tl.load(cells_ptr + 7 * F + f, mask=mask, other=0.0)
    d = tl.load(cells_ptr + 8 * F + f, mask=mask, other=0.0)
    bias = tl.load(cells_ptr + 9 * F + f, mask=mask, other=0.0)
    v = tl.load(v_ptr + n, mask=mask, other=0.0)
    u = tl.load(u_ptr + n, mask=mask, other=0.0)
    for t in range(T):
        at = tl.cast(t, tl.int64) * N + n
        x = tl.load(x_ptr + at, mask=mask, other=0.0) + bias
        tl.store(v_seq_ptr + at, v, mask=mask)
        tl.store(u_seq_ptr + at, u, mask=mask)
        end = v + tl.div_rn(dt * (k * (v - v_rest) * (v - v_threshold) - u + x), capacitance)
        u = u + dt * (a * (b * (v - v_rest) - u))
        fired = end - v_peak >= 0.0
        v = tl.where(fired, v_reset, end)
        u = tl.where(fired, u + d, u)
        tl.store(spikes_ptr + at, fired.to(tl.float32), mask=mask)
        tl.store(charged_ptr + at, end, mask=mask)
    tl.store(v_last_ptr + n, v, mask=mask)
    tl.store(u_last_ptr + n, u, mask=mask)


@triton.jit
def capacitance_backward(
    gs_ptr, gv_ptr, gu_ptr, cells_ptr, charged_ptr, v_seq_ptr, given_ptr, gx_ptr, gv_first_ptr, gu_first_ptr,
    T, N, F, dt, alpha, SURROGATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    f = n % F
    capacitance = tl.load(cells_ptr + f, mask=mask, other=1.0)
    k = tl.load(cells_ptr + F + f, mask=mask, other=0.0)
    v_rest = tl.load(cells_ptr + 2 * F + f, mask=mask, other=0.0)
    v_threshold = tl.load(cells_ptr + 3 * F + f, mask=mask, other=0.0)
    v_peak = tl.load(cells_ptr + 4 * F + f, mask=mask, other=0.0)
    a = tl.load(cells_ptr + 6 * F + f, mask=mask, other=0.0)
    b = tl.load(cells_ptr + 7 * F + f, mask=mask, other=0.0)
    gv = tl.load(gv_ptr + n, mask=mask, other=0.0)
    gu = tl.load(gu_ptr + n, mask=mask, other=0.0)
    gain = dt / capacitance
    dta = dt * a
    for step in range(T):
        at = tl.cast(T - 1 - step, tl.int64) * N + n
        end = tl.load(charged_ptr + at, mask=mask, other=0.0)
        gs = tl.load(gs_ptr + at, mask=mask, other=0.0)
        v = tl.load(v_seq_ptr + at, mask=mask, other=0.0)
        above = end - v_peak
        g_end = gs * _derivative(above, given_ptr, at, mask, alpha, SURROGATE)
        g_end += tl.where(above >= 0.0, 0.0, gv)
        gx = g_end * gain
        tl.store(gx_ptr + at, gx, mask=mask)
        gv = g_end + gx * k * ((v - v_rest) + (v - v_threshold)) + gu * dta * b
        gu = gu * (1.0 - dta) - gx
    tl.store(gv_first_ptr + n, gv, mask=mask)
    tl.store(gu_first_ptr + n, gu, mask=mask)
