"""Numpy arrays and generators as plain Python values, which every checkpoint format can hold."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["generator_state", "pack", "set_generator_state", "unpack"]


def pack(array: np.ndarray) -> dict[str, Any]:
    """`array` of any numeric type and shape as type, shape and bytes."""
    # no bytes are told as an empty string: torch.load(weights_only=True) refuses an empty bytes object
    content = np.ascontiguousarray(array).tobytes() or ""
    return {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": content}


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """The array that `pack` took, writable."""
    return np.frombuffer(packed["bytes"] or b"", np.dtype(packed["dtype"])).reshape(packed["shape"]).copy()


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """State of a PCG64 generator as integers and strings."""
    return dict(generator.bit_generator.state)


def set_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Continue from a state of `generator_state`."""
    generator.bit_generator.state = state
