"""Results that are expensive to make and named by all that determines them, one file each, read one at a time.

A carried state makes a trial depend on everything before it, so its name is a running hash: the name before it, mixed
with what the trial adds (`next_key`). Any prefix of a history that two runs share is then computed once, whatever
they do with it afterwards. Unlike a `FeatureStore` nothing stays in memory: a protocol's reservoir states are
gigabytes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from plasticity_lightning.runtime.atomic_file import atomic_file, clear_stale

__all__ = ["TrialStore", "next_key"]


def next_key(key: bytes, *parts: bytes) -> bytes:
    """The name, 16 bytes, of what follows from `key` and these parts; b"" starts a history."""
    digest = hashlib.blake2b(key, digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


class TrialStore:
    """Arrays by key, in files `<directory>/<first two hex digits>/<key>.npz`.

    A file is written under a temporary name and renamed, so that a killed process leaves whole files only and several
    may share a directory.

    Args:
        directory: created when the first file is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for folder in directory.glob("[0-9a-f][0-9a-f]"):  # what a killed process has left
            clear_stale(folder)

    def path(self, key: bytes) -> Path:
        """Where a key's arrays are, or would be."""
        name = key.hex()
        return self.directory / name[:2] / f"{name}.npz"

    def get(self, key: bytes) -> dict[str, np.ndarray] | None:
        """The arrays, or None if there are none.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.path(key)
        try:
            with np.load(path) as file:
                return {name: file[name] for name in file.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not readable: delete it, it will be made again ({error})") from error

    def put(self, key: bytes, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays under a key."""
        with atomic_file(self.path(key)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
