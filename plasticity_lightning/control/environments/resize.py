"""Images made smaller (or larger) by area: each new pixel is the mean of what it covers, as OpenCV's INTER_AREA."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["area_resize"]


def area_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`image` uint8 [H, W] or [H, W, C] as uint8 [height, width] or [height, width, C], rounded to the nearest."""
    rows, columns = _cover(image.shape[0], height), _cover(image.shape[1], width)
    small = np.tensordot(columns, np.tensordot(rows, image.astype(np.float32), 1), (1, 1))  # [width, height, ...]
    return np.rint(small.swapaxes(0, 1)).astype(np.uint8)


@lru_cache(maxsize=8)
def _cover(old: int, new: int) -> np.ndarray:
    """float32 [new, old]: share of each old pixel in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(old)
    overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
