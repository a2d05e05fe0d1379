"""The content of a ring kept on disk: which slots are new, which segments still hold one that is there.

Source of the idea: sheeprl's replay buffers beside the checkpoints; here they are appended to and shared by several.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_lightning.control.replay import log
from plasticity_lightning.control.replay.limits import check_disk
from plasticity_lightning.control.replay.ring import FrameRing

__all__ = ["RingLog"]

_BLOCK = 1024  # slots taken out of the ring at a time
_SEGMENTS = 16  # files that the content of a full ring lies in, if they are not too small
_SEGMENT_BYTES = 2**22


class RingLog:
    """Writes a ring to a log and fills it from one.

    Args:
        ring: whose content it is.
    """

    def __init__(self, ring: FrameRing) -> None:
        self.ring = ring
        self._folder: Path | None = None
        self._segments: list[log.Segment] = []
        self._logged = np.zeros(ring.n, np.int64)

    def append_to(self, folder: Path) -> dict[str, Any]:
        """Write what is new since the last call to the log in `folder`; the first call in a folder writes all.

        Args:
            folder: of this replay alone, beside the checkpoints; each rank has its own.

        Returns:
            What the checkpoint has to hold for `restore`: lengths and digests of the log's files, counts. A dict of
            plain values, some kilobytes.

        Raises:
            UserError: if the disk is full; the log is then as it was.
        """
        ring, same = self.ring, folder == self._folder
        first = np.maximum(self._logged, ring.oldest) if same else ring.oldest
        blocks = (
            ring.records(e, low, min(low + _BLOCK, int(ring.count[e])))
            for e in range(ring.n)
            for low in range(int(first[e]), int(ring.count[e]), _BLOCK)
        )
        per_segment = max(-(-ring.n * ring.length // _SEGMENTS), _SEGMENT_BYTES // ring.record.itemsize)
        segments = log.append(folder, self._segments if same else [], blocks, ring.n, per_segment)
        # a segment whose newest slots are overwritten holds nothing that this and later checkpoints need
        self._segments = [s for s in segments if (np.array(s["newest"]) >= ring.oldest).any()]
        self._folder, self._logged = folder, ring.count.copy()
        return {"segments": [dict(s) for s in self._segments], "count": ring.count.tolist(), **self._format()}

    def restore(self, folder: Path, meta: dict[str, Any]) -> None:
        """Fill this replay with the content that `append_to(folder)` wrote when it returned `meta`.

        The log is not touched, so that other checkpoints keep their parts of it.

        Raises:
            ValueError: if the checkpoint's replay had other frames, actions, capacity or environments.
            UserError: if a file is missing, too short or altered.
        """
        for key, value in self._format().items():
            if meta[key] != value:
                raise ValueError(f"the checkpoint's replay has {key}={meta[key]}, this one {key}={value}")
        count = np.array(meta["count"], np.int64)
        for block in log.read(folder, meta["segments"], self.ring.record):
            self.ring.put_records(block, count)
        self.ring.rebuild(count)
        self._folder, self._logged = folder, count.copy()
        self._segments = [dict(segment) for segment in meta["segments"]]

    def drop_unreferenced(self, folder: Path, metas: Iterable[dict[str, Any]]) -> None:
        """Free what no checkpoint needs of the log in `folder`: overwritten segments, tails that a kill left behind.

        Args:
            folder: of the log.
            metas: what `append_to` returned for every checkpoint that may still be resumed from; the running replay's
                own part is always kept. Call it at resume and after a checkpoint is in its place, never between
                `append_to` and the end of writing the checkpoint without the former checkpoint's meta among `metas`.
        """
        own = [self._segments] if folder == self._folder else []
        log.drop_unreferenced(folder, [*(meta["segments"] for meta in metas), *own])

    def check_disk(self, folder: Path) -> None:
        """Refuse a `folder` in whose file system the log of this replay, once full, has no room.

        Raises:
            UserError: naming what is needed and what would fit.
        """
        ring = self.ring
        already = sum(s["bytes"] for s in self._segments) if folder == self._folder else 0
        check_disk(ring.record.itemsize, ring.n * ring.length, folder, already)

    def _format(self) -> dict[str, Any]:
        ring = self.ring
        return {
            "capacity": ring.n * ring.length,
            "n_environments": ring.n,
            "frame": list(ring.frames.shape[2:]),
            "action": [ring.action.dtype.str, list(ring.action.shape[2:])],
        }
