"""Files that are complete or absent: written under a temporary name, flushed to the disk, renamed.

A temporary is removed when writing fails (a full disk must not be filled by what is of no use) and locked while it is being
written, so that what a killed process has left can be told from what another process is writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from plasticity_lightning.errors import UserError

__all__ = ["FileWriteError", "atomic_file", "clear_stale"]

_TEMPORARY, _MARK = ".{name}.{mark}.tmp", 8
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


class FileWriteError(UserError, OSError):
    """A file could not be written (full disk, no permission); what stood under its name is unharmed."""


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """File open for writing and reading bytes; it stands under `path` after the block, or not at all.

    Raises:
        FileWriteError: if the system refuses to write. Another error of the block passes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, file = _locked(path)
    except OSError as error:
        raise FileWriteError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _REFUSED:
            raise FileWriteError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def clear_stale(folder: Path) -> int:
    """Remove the temporaries of `atomic_file` in `folder` that nobody is writing; returns how many."""
    removed = 0
    for temporary in folder.glob(_TEMPORARY.format(name="*", mark="[0-9a-f]" * _MARK)):
        try:
            with temporary.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
            removed += 1
        except OSError:  # being written, already gone, or not ours to remove
            continue
    return removed


def _locked(path: Path) -> tuple[Path, IO[bytes]]:
    while True:
        temporary = path.parent / _TEMPORARY.format(name=path.name, mark=uuid.uuid4().hex[:_MARK])
        file = temporary.open("x+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else it was taken for a stale one before it was locked
            return temporary, file
        file.close()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
