"""A checkpoint as a file: written whole with a digest of its bytes, and verified before anything of it is believed.

torch.load does not look at the checksums of its container, a zip archive, so a flipped bit becomes a weight. A file written here
ends in an archive comment with the SHA-256 of all bytes before it; any other checkpoint is read through the CRC of each member,
which leaves names and padding unguarded. Nothing but tensors, numbers, strings and containers is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.atomic_file import atomic_file

__all__ = [
    "CheckpointError",
    "VerifyingIO",
    "missing_parts",
    "read_checkpoint",
    "verify_checkpoint",
    "write_checkpoint",
]

_MARK = b"sha256:"
_COMMENT = len(_MARK) + 64
_LOST = {
    "loops": "it starts with epoch 0",
    "callbacks": "callbacks start anew",
    "rng_state": "random numbers differ from those of the uninterrupted run",
}


class CheckpointError(UserError, ValueError):
    """A checkpoint that is damaged, of another kind, or lacks what it is needed for; the message names file and fault."""


class VerifyingIO(_WrappingCheckpointIO):
    """Lightning's reading of checkpoints, after a verification of the file.

    Attributes:
        resuming: the checkpoint is for going on with training, so what it lacks for that is said.
    """

    resuming = False

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Verify, then load."""
        if os.path.exists(path):  # else an address that only Lightning can open
            verify_checkpoint(Path(path))
        assert self.checkpoint_io is not None
        content: dict[str, Any] = self.checkpoint_io.load_checkpoint(path, *args, **kwargs)
        if self.resuming:
            missing_parts(content, Path(path))
        return content


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state`, complete or not at all.

    Raises:
        FileWriteError: if the system refuses to write.
    """
    with atomic_file(path) as file:
        guarded = _Guarded(file)
        try:
            torch.save(state, cast(IO[bytes], guarded))
        except Exception:
            if guarded.refused is not None:  # torch hides it behind an error of its own
                raise guarded.refused from None
            raise
        digest = _digest(file, file.tell() - 2)
        file.seek(-2, os.SEEK_END)  # the length of the archive's comment, so far 0, stands last
        file.write(_COMMENT.to_bytes(2, "little") + _MARK + digest.encode())


def verify_checkpoint(path: Path) -> None:
    """Read the whole file and compare it with its digest, or the members of the archive with their checksums.

    Raises:
        CheckpointError: if it is no readable checkpoint, or a bit of it has changed.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise CheckpointError(f"{path}: the file is empty")
            start = file.read(4)
            if start[:1] == b"\x80":  # a bare pickle
                raise CheckpointError(
                    f"{path} is in torch's format of before version 1.6: load and save it anew with torch, if you trust it"
                )
            if start != b"PK\x03\x04":
                raise CheckpointError(
                    f"{path} is no checkpoint of torch (no zip archive): it may be of another program"
                )
            if not _digest_agrees(file, size, path):
                _check_members(file, path)
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; give the path of a checkpoint file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a verified checkpoint, on the CPU.

    Raises:
        CheckpointError: as `verify_checkpoint`, and if the content is no Lightning checkpoint.
    """
    verify_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0] if "GLOBAL" not in str(error) else _forbidden(str(error))
        raise CheckpointError(f"{path} holds more than numbers and text, so it is not read: {reason}") from error
    except (RuntimeError, EOFError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is no checkpoint of torch: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        kind = f"a dict of {sorted(map(str, content))[:6]}" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} is no checkpoint of Lightning: it holds {kind}, without a state_dict")
    return content


def missing_parts(content: dict[str, Any], path: Path) -> None:
    """Say what a checkpoint lacks for an exact continuation of `fit`.

    Raises:
        CheckpointError: if it has no optimiser states, without which no training can go on.
    """
    if "optimizer_states" not in content or "lr_schedulers" not in content:
        raise CheckpointError(
            f"{path} holds weights only: training cannot go on from it; `test`, `validate` and `predict` can use it"
        )
    for part, consequence in _LOST.items():
        if not content.get(part):
            rank_zero_warn(f"{path} holds no {part}: the run cannot go on exactly, {consequence}")


class _Guarded:
    """A file that remembers why the system refused a write."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.flush, self.tell = file.flush, file.tell
        self.refused: OSError | None = None

    def write(self, data: Any) -> int:
        if self.refused is None:
            try:
                return self.file.write(data)
            except OSError as error:
                self.refused = error
        raise self.refused


def _digest(file: IO[bytes], length: int) -> str:
    digest, left = hashlib.sha256(), length
    file.seek(0)
    while left:
        block = file.read(min(left, 1 << 20))
        if not block:
            break
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def _digest_agrees(file: IO[bytes], size: int, path: Path) -> bool:
    """True if there is a digest and it agrees, False if there is none."""
    if size <= _COMMENT + 2:
        return False
    file.seek(-_COMMENT - 2, os.SEEK_END)
    tail = file.read()
    if tail[:2] != _COMMENT.to_bytes(2, "little") and tail[2 : 2 + len(_MARK)] != _MARK:
        return False
    expected = _COMMENT.to_bytes(2, "little") + _MARK + _digest(file, size - _COMMENT - 2).encode()
    if tail != expected:
        raise CheckpointError(
            f"{path} is damaged or cut short: its bytes do not agree with its digest; use another checkpoint"
        )
    return True


def _check_members(file: IO[bytes], path: Path) -> None:
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); use another checkpoint") from error
    if wrong is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of its part {wrong} is wrong; use another checkpoint")


def _forbidden(message: str) -> str:
    name = message.partition("GLOBAL ")[2].split(" ")[0]
    return (
        f"it names {name}, which a later version of the package may have moved"
        if "plasticity" in name
        else f"it names {name}"
    )
