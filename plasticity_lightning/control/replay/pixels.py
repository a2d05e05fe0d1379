"""Observations read from the rings: stacked, shifted and normalised in one pass, on the CPU compiled, on a device in torch.

The random shift is DrQ's (Yarats et al. 2021): replicate-pad by `pad`, crop at an offset in 0..2 pad. Here it is a
gather with clamped coordinates, the same function up to the rounding of the published bilinear sampling.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from plasticity_lightning.control.replay.ring import FrameRing

__all__ = ["PIXEL_TYPES", "PixelReader", "PixelType", "normalise", "to_device"]

PixelType = Literal["uint8", "float32", "bfloat16"]

PIXEL_TYPES = {"uint8": torch.uint8, "float32": torch.float32, "bfloat16": torch.bfloat16}


def normalise(pixels: Tensor, dtype: PixelType) -> Tensor:
    """uint8 pixels as x/255 - 0.5, computed in float32; "uint8" leaves them as they are."""
    return pixels if dtype == "uint8" else (pixels.float() / 255 - 0.5).to(PIXEL_TYPES[dtype])


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """`array` as a tensor there; a GPU fetches it while the program goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class PixelReader:
    """Reads observations of one ring.

    Args:
        ring: where the frames lie.
        pad: of the random shift.
        dtype: of the pixels, see `normalise`.
        zero: whether black stands before an episode's first frame, instead of that frame again.
        threads: that share a batch on the CPU.
    """

    def __init__(self, ring: FrameRing, pad: int, dtype: PixelType, zero: bool, threads: int) -> None:
        self.ring, self.pad, self.dtype, self.zero, self.threads = ring, pad, dtype, zero, threads
        table = normalise(torch.arange(256, dtype=torch.uint8), dtype)
        # numpy has no bfloat16: its bits travel as integers
        self._table = (table.view(torch.uint16) if dtype == "bfloat16" else table).numpy()
        self._pool = ThreadPoolExecutor(threads, "pixels") if threads > 1 else None

    def read(self, stream: np.ndarray, slot: np.ndarray, shift: np.ndarray) -> Tensor:
        """Observations [B, S * C, H, W] in channels_last memory that end with frames (stream, slot) int64 [B].

        Args:
            stream: environments.
            slot: slots, of which the whole stack must still be there.
            shift: int64 [B, 2], rows and columns in 0..2 pad; pad leaves an observation where it is.
        """
        if isinstance(self.ring.frames, Tensor):
            return self._read_on_device(self.ring.frames, stream, slot, shift)
        from plasticity_lightning.control.replay._kernel import gather_frames  # numba is slow to import

        ring, frames, b = self.ring, self.ring.frames, len(slot)
        h, w, c = frames.shape[2:]
        out = np.empty((b, h, w, ring.stack * c), self._table.dtype)
        gather = gather_frames(c, ring.stack)

        def run(lo: int, hi: int) -> None:
            gather(frames, ring.start, stream, slot, shift, self.pad, self.zero, self._table, out, lo, hi)

        if self._pool is None:
            run(0, b)
        else:
            cuts = np.linspace(0, b, self.threads + 1).astype(int).tolist()
            list(self._pool.map(run, cuts[:-1], cuts[1:]))
        tensor = torch.from_numpy(out)
        return (tensor.view(torch.bfloat16) if self.dtype == "bfloat16" else tensor).permute(0, 3, 1, 2)

    def _read_on_device(self, frames: Tensor, stream: np.ndarray, slot: np.ndarray, shift: np.ndarray) -> Tensor:
        ring, device = self.ring, frames.device
        h, w, c = frames.shape[2:]
        begin = ring.start[stream, slot % ring.length]
        wanted = slot[:, None] - np.arange(ring.stack - 1, -1, -1)
        place = np.maximum(wanted, begin[:, None]) % ring.length
        e, i, dy, dx = (to_device(index, device) for index in (stream, place, shift[:, 0], shift[:, 1]))
        rows = (torch.arange(h, device=device) + dy[:, None] - self.pad).clamp(0, h - 1)
        columns = (torch.arange(w, device=device) + dx[:, None] - self.pad).clamp(0, w - 1)
        # [B, H, W, S, C], so that the flattened channels lie together
        pixels = frames[e[:, None, None, None], i[:, None, None, :], rows[:, :, None, None], columns[:, None, :, None]]
        if self.zero:
            black = to_device(wanted < begin[:, None], device)
            pixels = pixels.masked_fill(black[:, None, None, :, None], 0)
        return normalise(pixels.reshape(len(slot), h, w, ring.stack * c), self.dtype).permute(0, 3, 1, 2)
