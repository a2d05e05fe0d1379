"""Compiled Bernoulli rate coding: SplitMix64 as a counter-based generator, one stream per sample, counter = step * C + channel."""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from plasticity_lightning.spiking._splitmix_kernel import random_bits

__all__ = ["encode"]


def encode(probability: np.ndarray, keys: np.ndarray, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int64 [B*T + 1] and channels int32 of the pulses of `probability` float32 [B, C] under `keys` uint64 [B]."""
    # 53 random bits compared as integers: u < p  <=>  bits < ceil(p * 2^53), exact for float32 p
    threshold = np.ceil(probability.astype(np.float64) * 2.0**53).astype(np.uint64)
    offsets = np.zeros(len(keys) * n_steps + 1, dtype=np.int64)
    _count(threshold, keys, n_steps, offsets)
    channels = np.empty(offsets[-1], dtype=np.int32)
    _fill(threshold, keys, n_steps, offsets, channels)
    return offsets, channels


@njit(nogil=True, cache=True)
def _count(threshold, keys, n_steps, offsets):  # type: ignore[no-untyped-def]
    n_samples, n_channels = threshold.shape
    for b in range(n_samples):
        active = np.nonzero(threshold[b])[0].astype(np.uint64)
        level = threshold[b][active.astype(np.int64)]
        for t in range(n_steps):
            base = uint64(t) * uint64(n_channels)
            n = 0
            for k in range(active.size):
                n += random_bits(keys[b], base + active[k]) < level[k]
            offsets[b * n_steps + t + 1] = n
    for k in range(1, offsets.size):
        offsets[k] += offsets[k - 1]


@njit(nogil=True, cache=True)
def _fill(threshold, keys, n_steps, offsets, channels):  # type: ignore[no-untyped-def]
    n_samples, n_channels = threshold.shape
    for b in range(n_samples):
        active = np.nonzero(threshold[b])[0].astype(np.uint64)
        level = threshold[b][active.astype(np.int64)]
        for t in range(n_steps):
            base = uint64(t) * uint64(n_channels)
            at = offsets[b * n_steps + t]
            for k in range(active.size):
                if random_bits(keys[b], base + active[k]) < level[k]:
                    channels[at] = np.int32(active[k])
                    at += 1
