"""Events of a simulated or real event camera, and their binary spike trains in steps of 1 ms.

A batch of recordings is kept as columns (`Events`); `bin_events` turns it into the ragged layout of the spiking
engine (`EventBatch`): t_ms = round(t / 1000), events with t_ms >= T or outside the sensor are dropped, several events
of one channel in one millisecond count once, channel = (p * H + y) * W + x.

Source: the preprocessing of N-MNIST in Ivanov & Michmizos 2021, as in their published code.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["EventBatch", "Events", "bin_events"]


class Events(NamedTuple):
    """Events as columns of equal length: sample (position in the batch), x, y, t in microseconds, p (1 = ON)."""

    sample: np.ndarray
    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray


class EventBatch(NamedTuple):
    """Ragged binary spike trains of B samples over T = `n_steps` steps of 1 ms.

    The spikes of sample b in step t are `channels[offsets[b * T + t] : offsets[b * T + t + 1]]`, ascending and
    without duplicates. `offsets` is int64 [B * T + 1], `channels` int32 [number of spikes].
    """

    offsets: Tensor
    channels: Tensor
    n_steps: int
    n_channels: int


def bin_events(events: Events, n_samples: int, n_steps: int, sensor_size: tuple[int, int] = (34, 34)) -> EventBatch:
    """Binary spike trains of a batch of recordings.

    Args:
        events: columns, in any order.
        n_samples: B; `events.sample` lies in 0..B-1.
        n_steps: T, in ms.
        sensor_size: (H, W) in pixels.

    Returns:
        `EventBatch` with 2 * H * W channels, 2312 for N-MNIST.
    """
    height, width = sensor_size
    n_channels = 2 * height * width
    x, y, p = (np.asarray(column, np.int64) for column in (events.x, events.y, events.p))
    step = np.rint(np.asarray(events.t, np.float64) / 1000).astype(np.int64)
    kept = (step >= 0) & (step < n_steps) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    cell = np.asarray(events.sample, np.int64) * n_steps + step
    key = np.unique((cell * n_channels + (p * height + y) * width + x)[kept])
    counts = np.bincount(key // n_channels, minlength=n_samples * n_steps)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    channels = (key % n_channels).astype(np.int32)
    return EventBatch(torch.from_numpy(offsets), torch.from_numpy(channels), n_steps, n_channels)
