"""`splitmix.random_bits` for compiled code."""

from __future__ import annotations

from numba import njit, uint64

__all__ = ["random_bits"]


@njit(nogil=True, cache=True, inline="always")
def random_bits(key, counter):  # type: ignore[no-untyped-def]
    """53 random bits, uint64, of uint64 key and counter."""
    z = key + counter * uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> uint64(27))) * uint64(0x94D049BB133111EB)
    return (z ^ (z >> uint64(31))) >> uint64(11)
