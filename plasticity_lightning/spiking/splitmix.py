"""SplitMix64 as a counter-based generator: random bits as a pure function of (key, counter), on int64 tensors.

So a number does not depend on batches, order, threads or ranks. `_splitmix_kernel` restates it for compiled code; a test compares the two.
Source: Steele, Lea & Flood 2014, the generator and its finaliser.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_bits", "sample_keys"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64


def sample_keys(seed: int, index: Tensor) -> Tensor:
    """One 64-bit key per sample, int64 [B], a pure function of the seed and the sample's index (SplitMix64 finaliser)."""
    with torch.no_grad():
        z = index.long() * _GOLDEN + _mix(torch.tensor(seed, dtype=torch.int64))
        return _mix(z)


def random_bits(keys: Tensor, counter: Tensor) -> Tensor:
    """53 random bits, int64 in [0, 2^53), from int64 keys and counters that broadcast against each other."""
    return (_mix(keys + counter * _GOLDEN) >> 11) & ((1 << 53) - 1)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 two's complement; `>>` is arithmetic there, hence the masks."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * -7723592293110705685  # 0x94D049BB133111EB
    return z ^ ((z >> 31) & ((1 << 33) - 1))
