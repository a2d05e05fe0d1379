"""One step of several environments as arrays, in private or in shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from mmap import mmap

import numpy as np

from plasticity_lightning.control.environments.contract import EnvironmentForm

__all__ = ["Steps", "place_steps"]

_ALIGNMENT = 64


@dataclass(frozen=True)
class Steps:
    """One step of E environments.

    Args:
        action: float32 [E, A] or int64 [E], what was done.
        frame: uint8 [E, C, H, W], seen after it.
        reward: float32 [E].
        discount: float32 [E], 0 at a true termination.
        last: bool [E], whether the episode ended with `frame`.
        reset_frame: uint8 [E, C, H, W], first frame of the next episode where `last`, undefined elsewhere.
    """

    action: np.ndarray
    frame: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    last: np.ndarray
    reset_frame: np.ndarray


def place_steps(buffer: mmap | None, n: int, form: EnvironmentForm) -> tuple[Steps, int]:
    """Arrays of the steps of `n` environments in `buffer`, one after the other, and the bytes that they take.

    Without a buffer the arrays are new ones. Two processes that call it with the same memory see the same steps.
    """
    layout: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "action": ((n, *form.actions.shape), form.actions.dtype),
        "frame": ((n, *form.frame_shape), np.uint8),
        "reward": ((n,), np.float32),
        "discount": ((n,), np.float32),
        "last": ((n,), np.bool_),
        "reset_frame": ((n, *form.frame_shape), np.uint8),
    }
    arrays, offset = {}, 0
    for name, (shape, dtype) in layout.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays[name] = np.zeros(shape, dtype) if buffer is None else np.ndarray(shape, dtype, buffer, offset)
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    return Steps(**arrays), offset
