"""Compiled passes over the samples of a trial, one lane a call; they release the GIL, so lanes may run in threads.

Restates `lms.lms_step`, `three_factor.three_factor_step` and `rls.rls_step` sample by sample;
`tests/readouts/test_trial.py` compares them step by step.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["delta_trial", "rls_trial"]


@njit(nogil=True, cache=True)
def _passed(error, kind):  # type: ignore[no-untyped-def]
    """`modulation.ERRORS`, by position."""
    if kind == 1:
        return max(error, 0.0)
    if kind == 2:
        return min(error, 0.0)
    if kind == 3:
        return abs(error)
    if kind == 4:
        return np.sign(error)
    return error


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def delta_trial(weight, x, trace, target, gate, eta, power, kind, gain, output):  # type: ignore[no-untyped-def]
    """`three_factor_step` (and, with trace = x, `lms_step`) over T samples; weight [R, N] is changed in place.

    x and trace are [T, N], target and gate [T, R]; output [T, R] receives w . x before each sample's change.
    """
    n_samples, n = x.shape
    for t in range(n_samples):
        now, then = x[t], trace[t]
        norm = 0.0
        for i in range(n):
            norm += then[i] * then[i]
        scale = eta / max(power, norm)
        for r in range(weight.shape[0]):
            w = weight[r]
            ahead, lagged = 0.0, 0.0
            for i in range(n):
                ahead += w[i] * now[i]
                lagged += w[i] * then[i]
            output[t, r] = ahead
            if gate[t, r] != 0.0:
                step = scale * gate[t, r] * gain * _passed(target[t, r] - lagged, kind)
                for i in range(n):
                    w[i] += step * then[i]


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def rls_trial(weight, inverse, x, target, gate, forgetting, output):  # type: ignore[no-untyped-def]
    """`rls_step` over T samples; weight [R, N] and the symmetric inverse [N, N] are changed in place, all float64.

    Only the upper triangle is read and written, which halves the traffic to memory, and the lower one is mirrored at
    the end.
    """
    n_samples, n = x.shape
    px = np.empty(n)
    for t in range(n_samples):
        now = x[t]
        for r in range(weight.shape[0]):
            total = 0.0
            for i in range(n):
                total += weight[r, i] * now[i]
            output[t, r] = total
        if gate[t] == 0.0:
            continue
        px[:] = 0.0
        for i in range(n):
            row, here = inverse[i], now[i]
            total = row[i] * here
            for j in range(i + 1, n):
                total += row[j] * now[j]
                px[j] += row[j] * here
            px[i] += total
        quadratic = 0.0
        for i in range(n):
            quadratic += px[i] * now[i]
        scale = 1.0 / (forgetting + quadratic)
        for r in range(weight.shape[0]):
            step = (target[t, r] - output[t, r]) * scale
            for i in range(n):
                weight[r, i] += step * px[i]
        shrink = 1.0 / forgetting
        for i in range(n):
            row, here = inverse[i], scale * px[i]
            for j in range(i, n):
                row[j] = (row[j] - here * px[j]) * shrink
    for i in range(n):
        for j in range(i):
            inverse[i, j] = inverse[j, i]
