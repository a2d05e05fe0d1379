"""A compiled pass over the samples of a trial, one lane a call; it releases the GIL, so lanes may run in threads.

Restates `three_factor.three_factor_step`, and with it `lms.lms_step`, sample by sample; `tests/readouts/test_trial.py`
compares them step by step.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["delta_trial"]


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
