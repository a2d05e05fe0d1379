"""Frames and steps of E environments in rings of fixed length, and which of them begin a transition.

Every frame lies once. Slots of an environment are numbered from 0 since the beginning; slot t lies at t mod L. What is
written can be taken out as records, one a slot, and put back into an empty ring: so the log keeps it on disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from plasticity_lightning.control.environments.contract import Actions
from plasticity_lightning.control.replay.limits import check_room

__all__ = ["FrameRing"]


class FrameRing:
    """See the module's text.

    Args:
        frame_shape: (C, H, W).
        actions: their spec.
        n: E, environments.
        length: L, slots an environment.
        stack, n_step, short: see `FrameReplay`; they decide which slots begin a transition.
        storage: "memory", "memmap" or "device".
        folder: of a memmap.
        device: of storage "device".

    Attributes:
        frames: uint8 [E, L, H, W, C], an array or a tensor on the device; the rest stays in main memory.
        action, reward, discount, last: [E, L, ...], how a slot's frame was reached and whether it ends an episode.
        start: int64 [E, L], first slot of its episode.
        window: int64 [E, L], steps of the transition that begins there, 0 if there is none.
        count: int64 [E], slots ever written.
        size: transitions that may be drawn.

    Raises:
        UserError: if it does not fit.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        actions: Actions,
        n: int,
        length: int,
        *,
        stack: int,
        n_step: int,
        short: bool,
        storage: str,
        folder: Path,
        device: torch.device,
    ) -> None:
        c, h, w = self._frame_shape = frame_shape
        self.n, self.length, self.stack, self.n_step, self.short = n, length, stack, n_step, short
        self.record = np.dtype(
            [
                ("stream", "<i4"),
                ("last", "u1"),
                ("slot", "<i8"),
                ("start", "<i8"),
                ("reward", "<f4"),
                ("discount", "<f4"),
                ("action", np.dtype(actions.dtype), actions.shape),
                ("frame", "u1", (h, w, c)),
            ]
        )
        check_room(storage, self.record.itemsize + 8, n * length, folder, device)
        self.frames: np.ndarray | Tensor = _allocate((n, length, h, w, c), storage, folder, device)
        self.action = np.zeros((n, length, *actions.shape), actions.dtype)
        self.reward = np.zeros((n, length), np.float32)
        self.discount = np.zeros((n, length), np.float32)
        self.last = np.zeros((n, length), np.bool_)
        self.start = np.zeros((n, length), np.int64)
        self.window = np.zeros((n, length), np.int64)
        self.count = np.zeros(n, np.int64)
        self.size = 0
        self._finished: list[list[tuple[int, int, int]]] = [[] for _ in range(n)]
        self._table: np.ndarray | None = None

    @property
    def oldest(self) -> np.ndarray:
        """int64 [E], the oldest slot that is still there."""
        return np.maximum(self.count - self.length, 0)

    def begin(self, e: int, frame: np.ndarray) -> None:
        """Environment `e` begins an episode with `frame` uint8 [C, H, W]."""
        t = int(self.count[e])
        if t and not self.last[e, (t - 1) % self.length]:  # the one before was broken off
            self._finish(e, t - 1)
        self._write(e, frame, np.zeros_like(self.action[e, 0]), 0.0, 1.0, last=False, start=t)

    def add(self, e: int, frame: np.ndarray, action: np.ndarray, reward: float, discount: float, *, last: bool) -> None:
        """Environment `e` reached `frame` uint8 [C, H, W] by `action`."""
        start = int(self.start[e, (self.count[e] - 1) % self.length])
        self._write(e, frame, action, reward, discount, last=last, start=start)
        if last:
            self._finish(e, int(self.count[e]) - 1)

    def finished_episodes(self) -> np.ndarray:
        """int64 [M, 3]: environment, first and last slot of the episodes that are over, by environment, then in time.

        Of those that are overwritten, wholly or in part, some may still be listed.
        """
        if self._table is None:
            for e, oldest in enumerate(self.oldest):
                self._finished[e] = [episode for episode in self._finished[e] if episode[2] >= oldest]
            self._table = np.array([episode for known in self._finished for episode in known], np.int64).reshape(-1, 3)
        return self._table

    def records(self, e: int, first: int, end: int) -> np.ndarray:
        """Slots [first, end) of environment `e`, which are still there, as records [end - first]."""
        slots = np.arange(first, end)
        place = slots % self.length
        records = np.zeros(len(slots), self.record)
        records["stream"], records["slot"] = e, slots
        for name in ("last", "start", "reward", "discount", "action"):
            records[name] = getattr(self, name)[e, place]
        frames = self.frames[e, place]
        records["frame"] = frames.cpu().numpy() if isinstance(frames, Tensor) else frames
        return records

    def put_records(self, records: np.ndarray, count: np.ndarray) -> None:
        """Put those records [M] back that were still there when `count` int64 [E] slots had been written."""
        e, slots = records["stream"].astype(np.int64), records["slot"]
        live = (slots >= count[e] - self.length) & (slots < count[e])
        e, place, records = e[live], slots[live] % self.length, records[live]
        for name in ("last", "start", "reward", "discount", "action"):
            getattr(self, name)[e, place] = records[name]
        if isinstance(self.frames, Tensor):
            self.frames[torch.from_numpy(e), torch.from_numpy(place)] = torch.from_numpy(records["frame"].copy()).to(
                self.frames.device
            )
        else:
            self.frames[e, place] = records["frame"]

    def rebuild(self, count: np.ndarray) -> None:
        """After all records are back: `count` int64 [E] slots have been written; find the transitions anew."""
        self.count, self.size = count.copy(), 0
        self.window[...] = 0
        for e in range(self.n):
            self._book(e, int(self.oldest[e]), int(count[e]))
            slots = np.arange(self.oldest[e], count[e])
            over = self.last[e, slots % self.length].copy()
            over[:-1] |= self.start[e, slots[1:] % self.length] == slots[1:]
            self._finished[e] = []
            for t in slots[over]:
                self._finish(e, int(t))

    def _write(
        self,
        e: int,
        frame: np.ndarray,
        action: np.ndarray,
        reward: float,
        discount: float,
        *,
        last: bool,
        start: int,
    ) -> None:
        t = int(self.count[e])
        i = t % self.length
        image = frame.transpose(1, 2, 0)
        if image.shape != self.frames.shape[2:]:  # numpy would spread one channel over three
            raise ValueError(f"a frame of shape {list(frame.shape)} does not fit a replay of {self._frame_shape}")
        if isinstance(self.frames, Tensor):
            self.frames[e, i] = torch.from_numpy(np.ascontiguousarray(image))
        else:
            self.frames[e, i] = image
        self.action[e, i], self.reward[e, i], self.discount[e, i] = action, reward, discount
        self.last[e, i], self.start[e, i] = last, start
        self._book(e, t, t + 1)
        self.count[e] = t + 1

    def _finish(self, e: int, t: int) -> None:
        self._finished[e].append((e, int(self.start[e, t % self.length]), t))
        self._table = None

    def _book(self, e: int, first: int, end: int) -> None:
        from plasticity_lightning.control.replay._kernel import book_slots  # numba is slow to import

        self.size += book_slots(
            self.start[e], self.window[e], self.last[e], first, end, self.n_step, self.stack, self.short
        )


def _allocate(shape: tuple[int, ...], storage: str, folder: Path, device: torch.device) -> np.ndarray | Tensor:
    if storage == "device":
        return torch.zeros(shape, dtype=torch.uint8, device=device)
    if storage == "memory":
        return np.zeros(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="replay-", dir=folder) as file:
        # reserved now: writing into a hole of a full disk would kill the process
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))
        return np.memmap(file, np.uint8, "r+", shape=shape)
