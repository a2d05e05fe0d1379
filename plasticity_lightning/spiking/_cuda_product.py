"""A float64 product that the CUDA compiler must round by itself, never fused with the sum that takes it.

The CPU engines round every product; numba's CUDA target contracts a * b + c into one operation and offers no switch for that.
"""

from __future__ import annotations

from numba import config, cuda

__all__ = ["product"]

if config.ENABLE_CUDASIM:  # type: ignore[attr-defined] # the simulator is Python, which rounds every product

    def product(a, b):  # type: ignore[no-untyped-def]
        """a * b."""  # noqa: D403 - a is a name
        return a * b

else:
    from numba.cuda import libdevice

    @cuda.jit(device=True)
    def product(a, b):  # type: ignore[no-untyped-def]
        """a * b."""  # noqa: D403 - a is a name
        return libdevice.dmul_rn(a, b)
