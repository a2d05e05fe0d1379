"""`product` for CUDA: its compiler contracts a * b + c into one operation unless told otherwise, and numba offers no switch for that."""

from __future__ import annotations

from numba import config
from numba.extending import overload

from plasticity_lightning.spiking._product import product

__all__ = ["product"]

if not config.ENABLE_CUDASIM:  # type: ignore[attr-defined] # the simulator is Python, which rounds every product
    from numba.cuda import libdevice

    @overload(product, target="cuda")
    def _rounded_product(a, b):  # type: ignore[no-untyped-def]  # numba types it
        return lambda a, b: libdevice.dmul_rn(a, b)
