"""The content of a replay on disk: records appended to segments beside the checkpoints, never rewritten.

A checkpoint holds, for each segment that it needs, the file's name, how many of its records belong to the checkpoint and a
digest of these. So several checkpoints share one log, each naming its own part; what lies behind the longest part is
a torn or abandoned tail; a segment in no checkpoint is no longer needed. The digest is a chain, sha256(digest before +
record), which can be continued after a resume.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_lightning.errors import UserError

__all__ = ["Segment", "append", "drop_unreferenced", "read"]

Segment = dict[str, Any]
"""`file`: name; `records`, `bytes`: how many; `digest`: hex of their chain; `newest`: last slot of each environment, or -1."""

_SUFFIX = ".frames"
_CHUNK = 1024  # records held in memory at a time


def append(
    folder: Path, segments: list[Segment], records: Iterable[np.ndarray], n_streams: int, per_segment: int
) -> list[Segment]:
    """Write records behind the last segment, in new segments where it is full; all are on the disk at return.

    Args:
        folder: made if it is not there.
        segments: what the log holds so far; not changed.
        records: blocks of records with fields `stream` and `slot`, see `FrameRing`.
        n_streams: environments.
        per_segment: records a segment.

    Returns:
        The segments that the log holds now.

    Raises:
        UserError: if the disk is full or does not accept the records; the log is then as it was.
    """
    segments = [dict(segment) for segment in segments]
    before = {segment["file"]: segment["bytes"] for segment in segments}
    touched: set[str] = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for block in records:
            while len(block):
                if not segments or not _can_grow(folder, segments[-1], per_segment):
                    segments.append(_new_segment(folder, segments, n_streams))
                touched.add(segments[-1]["file"])
                fits = block[: per_segment - segments[-1]["records"]]
                _write(folder, segments[-1], fits)
                block = block[len(fits) :]
        _synchronise(folder)
    except OSError as error:
        for name in touched:
            _cut(folder / name, before.get(name, 0))
        raise UserError(
            f"the replay cannot be written to {folder} ({error.strerror}): make room there and resume; the checkpoints "
            "written before are whole"
        ) from error
    return segments


def read(folder: Path, segments: Iterable[Segment], record: np.dtype) -> Iterator[np.ndarray]:
    """The records of `segments` in blocks, in the order in which they were appended.

    Raises:
        UserError: if a file is missing, shorter than the checkpoint says, or has other content.
    """
    for segment in segments:
        path, digest, left = folder / segment["file"], b"", segment["records"]
        try:
            with path.open("rb") as file:
                while left:
                    block = np.fromfile(file, record, min(left, _CHUNK))
                    if not len(block):
                        raise UserError(f"{path} lacks {left} of the {segment['records']} records of the checkpoint")
                    digest = _chain(digest, block)
                    left -= len(block)
                    yield block
        except OSError as error:
            raise UserError(f"{path}, a part of the checkpoint's replay, cannot be read: {error.strerror}") from error
        if digest.hex() != segment["digest"]:
            raise UserError(f"{path} does not hold what the checkpoint says (its digest differs)")


def drop_unreferenced(folder: Path, logs: Iterable[list[Segment]]) -> None:
    """Delete segments that none of `logs` names, and cut the others behind the longest part that one names.

    Args:
        folder: of the log; nothing is done where there is none.
        logs: the segments of every checkpoint that may still be resumed from, and of the running replay.
    """
    needed: dict[str, int] = {}
    for segments in logs:
        for segment in segments:
            needed[segment["file"]] = max(needed.get(segment["file"], 0), segment["bytes"])
    for path in folder.glob(f"*{_SUFFIX}"):
        if path.name not in needed:
            path.unlink()
        elif path.stat().st_size > needed[path.name]:
            _cut(path, needed[path.name])


def _can_grow(folder: Path, segment: Segment, per_segment: int) -> bool:
    # a longer file holds a tail that another checkpoint may name: the log goes on in a new one
    return segment["records"] < per_segment and (folder / segment["file"]).stat().st_size == segment["bytes"]


def _new_segment(folder: Path, segments: list[Segment], n_streams: int) -> Segment:
    number = int(Path(segments[-1]["file"]).stem) + 1 if segments else 0
    while True:
        name = f"{number:06d}{_SUFFIX}"
        try:
            (folder / name).touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return {"file": name, "records": 0, "bytes": 0, "digest": "", "newest": [-1] * n_streams}


def _write(folder: Path, segment: Segment, records: np.ndarray) -> None:
    with (folder / segment["file"]).open("ab") as file:
        file.write(records.tobytes())
        file.flush()
        os.fsync(file.fileno())
    segment["records"] += len(records)
    segment["bytes"] += records.nbytes
    segment["digest"] = _chain(bytes.fromhex(segment["digest"]), records).hex()
    for stream in np.unique(records["stream"]):
        segment["newest"][stream] = int(records["slot"][records["stream"] == stream].max())


def _chain(digest: bytes, records: np.ndarray) -> bytes:
    for record in records:
        digest = hashlib.sha256(digest + record.tobytes()).digest()
    return digest


def _cut(path: Path, size: int) -> None:
    if not size:
        path.unlink(missing_ok=True)
    else:
        os.truncate(path, size)


def _synchronise(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
