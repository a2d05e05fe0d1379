"""A product of two float64 numbers that compiled code rounds by itself, never fused with the sum that takes it.

Functions that are written with it can be compiled for the CPU, where numba rounds every product, and for CUDA, where
`_cuda_product` says how.
"""

from __future__ import annotations

from numba.extending import overload

__all__ = ["product"]


def product(a, b):  # type: ignore[no-untyped-def]  # numba types it
    """a * b."""  # noqa: D403 - a is a name
    return a * b


@overload(product)
def _rounded_product(a, b):  # type: ignore[no-untyped-def]  # numba types it
    return lambda a, b: a * b
