"""What a GPU engine asks of the machine: is there a device that numba can use, which one, and how much of its memory is free."""

from __future__ import annotations

import torch

__all__ = ["cuda_available", "free_memory", "lanes_that_fit", "on_current_device"]


def cuda_available() -> bool:
    """Whether torch sees a GPU and numba can compile for it."""
    if not torch.cuda.is_available():
        return False
    from numba import cuda

    return bool(cuda.is_available())


def on_current_device() -> None:
    """Make numba use torch's current device, so that processes of one job keep to their own."""
    from numba import cuda

    if torch.cuda.is_available():
        cuda.select_device(torch.cuda.current_device())


def free_memory() -> float:
    """Bytes that are free on the current device; infinite in numba's simulator."""
    from numba import cuda

    return float(cuda.current_context().get_memory_info()[0])


def lanes_that_fit(bytes_each: int, free: float, spare: float = 0.1) -> int:
    """How many lanes or samples of that size fit, a fraction `spare` of the free memory left alone; at most 2^16 a launch."""
    return int(min((1.0 - spare) * free / bytes_each, 2.0**16))
