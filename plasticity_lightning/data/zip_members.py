"""Reading members of zip files that others made: never more bytes than a member may have, whatever its header says."""

from __future__ import annotations

import zipfile

from plasticity_lightning.data.errors import DataFormatError

__all__ = ["read_member"]


def read_member(archive: zipfile.ZipFile, name: str, most: int, allowed: str) -> bytes:
    """The bytes of a member.

    Args:
        archive: open for reading.
        name: of the member.
        most: bytes that it may have.
        allowed: says so in the error, before the number: "a recording has at most".

    Raises:
        DataFormatError: if its header announces more than `most`.
        zipfile.BadZipFile: if it does not hold what its header announces; no more than that is expanded.
    """
    size = archive.getinfo(name).file_size
    if size > most:
        raise DataFormatError(f"{archive.filename}: {name} expands to {size} bytes; {allowed} {most}.")
    with archive.open(name) as member:
        return member.read(size)  # `ZipFile.read` expands all there is before it looks at the length
