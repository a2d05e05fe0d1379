"""Where data are looked for, and how they are downloaded.

Roots, in this order: the argument `root`, the environment variable `PLASTICITY_DATA`, `~/.cache/plasticity_lightning`,
then the folders of the system's own data packages. Under each root a data set is looked for in its usual folders
(torchvision's layout among them), names compared without regard to case, `-` and `_`. What is found nowhere is
downloaded, each file from several mirrors in turn, checked against its md5 and only then given its final name.
"""

import hashlib
import http.client
import logging
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plasticity_lightning.data.errors import DataNotFoundError
from plasticity_lightning.runtime.atomic_file import atomic_file, clear_stale

__all__ = ["Found", "Layout", "RemoteFile", "Source", "cache_folder", "data_roots", "download", "locate"]

_ENVIRONMENT_VARIABLE = "PLASTICITY_DATA"
_SYSTEM_ROOT = Path("/usr/share/datasets")
_CHUNK = 1 << 20  # bytes
_SLOWEST = 1000  # bytes a second
_MOST_BYTES = 1 << 34  # of a file whose server does not say its length
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """One form in which a data set may lie on disk: all of its files in one folder.

    Args:
        name: what the reader is told, for example `"idx"`.
        files: role -> file (or folder) names allowed for it, in order of preference; case does not matter.
    """

    name: str
    files: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class RemoteFile:
    """One file to download: its name, its md5 and the addresses to try in turn."""

    name: str
    md5: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where one data set may be, and how to get it.

    Args:
        title: name in messages.
        folders: folders under a root, `/`-separated; the root itself is always tried too, last.
        layouts: forms in order of preference.
        remote: files to download; empty for a data set that has to be obtained by hand.
        download_folder: where under a root downloads go.
        how_to_get: sentence for the error message.
    """

    title: str
    folders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    how_to_get: str
    remote: tuple[RemoteFile, ...] = ()
    download_folder: str = ""


@dataclass(frozen=True)
class Found:
    """A complete copy: the name of its layout and the path for each role."""

    layout: str
    paths: Mapping[str, Path] = field(default_factory=dict)


def cache_folder() -> Path:
    """Folder for downloads and decoded images: `$XDG_CACHE_HOME` or `~/.cache`, then `plasticity_lightning`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plasticity_lightning"


def data_roots(root: str | Path | None) -> list[Path]:
    """Roots in the order in which they are searched; `root` and `PLASTICITY_DATA` come first where they are given."""
    given = [root, os.environ.get(_ENVIRONMENT_VARIABLE)]
    return [Path(folder).expanduser() for folder in given if folder] + [cache_folder(), _SYSTEM_ROOT]


def locate(source: Source, root: str | Path | None = None, allow_download: bool = True) -> Found:
    """Find a complete copy of a data set, downloading it if there is none.

    Args:
        source: what to look for.
        root: first folder to look in; downloads go there too, else to `PLASTICITY_DATA`, else to the cache folder.
        allow_download: whether to download what is found nowhere.

    Returns:
        The first complete copy: roots in order, then layouts by preference, then folders.

    Raises:
        DataNotFoundError: listing every place looked at, every address tried, and how to get the data.
    """
    roots = data_roots(root)
    looked: list[str] = []
    for place in roots:
        found = _search(source, place, looked)
        if found is not None:
            _log.info("%s: found as %s in %s", source.title, found.layout, place)
            return found
    tried = ["download=False: nothing was downloaded"]
    if allow_download and source.remote:
        target = roots[0] / source.download_folder
        tried = _download_all(source, target)
        found = None if tried else _search(source, roots[0], [])
        if found is not None:
            return found
    raise DataNotFoundError(_not_found_message(source, looked, tried if source.remote else []))


def download(remote: RemoteFile, folder: Path, timeout_s: float = 30.0) -> Path:
    """Download one file, atomically: it appears under its name only when complete and of the right md5.

    Args:
        remote: the file; its addresses are tried in turn.
        folder: made if it is missing.
        timeout_s: an address is given up after so many seconds without data, or with less than 1,000 bytes a second.

    Returns:
        Path of the file.

    Raises:
        DataNotFoundError: naming each address and why it failed.
    """
    faults = []
    for url in remote.urls:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _log.info("downloading %s", url)
            _fetch(url, remote.md5, folder / remote.name, timeout_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            faults.append(f"{url}: {error or type(error).__name__}")
        else:
            return folder / remote.name
    raise DataNotFoundError("\n".join(faults))


def _search(source: Source, root: Path, looked: list[str]) -> Found | None:
    folders = [match for name in source.folders for match in _matching_folders(root, name)]
    folders += [root] if root.is_dir() else []
    for layout in source.layouts:
        for folder in folders:
            paths, missing = _match_files(layout, folder)
            if not missing:
                return Found(layout.name, paths)
            if paths:
                looked.append(f"{folder}: incomplete, lacks {', '.join(missing)}")
    looked.append(f"{root}" + ("" if root.is_dir() else " (does not exist)"))
    return None


def _matching_folders(root: Path, name: str) -> Iterator[Path]:
    """Folders under `root` whose `/`-separated path equals `name` up to case, `-` and `_`."""
    head, _, rest = name.partition("/")
    try:
        children = sorted(child for child in root.iterdir() if _plain(child.name) == _plain(head) and child.is_dir())
    except OSError:  # missing or unreadable: nothing there
        return
    for child in children:
        if rest:
            yield from _matching_folders(child, rest)
        else:
            yield child


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _match_files(layout: Layout, folder: Path) -> tuple[dict[str, Path], list[str]]:
    try:
        present = {child.name.lower(): child for child in sorted(folder.iterdir())}
    except OSError:
        present = {}
    paths: dict[str, Path] = {}
    missing = []
    for role, names in layout.files.items():
        match = next((present[name.lower()] for name in names if name.lower() in present), None)
        if match is None:
            missing.append(names[0])
        else:
            paths[role] = match
    return paths, missing


def _download_all(source: Source, folder: Path) -> list[str]:
    for remote in source.remote:
        if (folder / remote.name).is_file():  # a former, interrupted run got this one
            continue
        try:
            download(remote, folder)
        except DataNotFoundError as error:
            return str(error).splitlines()
    return []


def _fetch(url: str, md5: str, target: Path, timeout_s: float) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    clear_stale(target.parent)
    with atomic_file(target) as stream, urllib.request.urlopen(url, timeout=timeout_s) as response:
        announced = response.headers.get("Content-Length", "")
        most = int(announced) if announced.isdecimal() else _MOST_BYTES
        written, since, at = 0, 0, time.monotonic()
        while chunk := response.read1(_CHUNK):  # what has come, without waiting for a whole chunk
            digest.update(chunk)
            stream.write(chunk)
            written += len(chunk)
            if written > most:
                raise ValueError(f"more than the {most} bytes that it may have")
            if time.monotonic() - at > timeout_s:
                if written - since < timeout_s * _SLOWEST:
                    raise TimeoutError(f"slower than {_SLOWEST} bytes a second for {timeout_s:g} s")
                since, at = written, time.monotonic()
        if digest.hexdigest() != md5:
            raise ValueError(f"md5 is {digest.hexdigest()}, expected {md5}")
        os.fchmod(stream.fileno(), 0o644)


def _not_found_message(source: Source, looked: list[str], tried: list[str]) -> str:
    lines = [f"{source.title} was not found. Looked in these folders (and their usual subfolders):"]
    lines += [f"  - {place}" for place in looked]
    if tried:
        lines += ["Downloading:"] + [f"  - {fault}" for fault in tried]
    lines += [
        f"How to get it: {source.how_to_get}",
        f"Then give its folder as the data module's `root` or in the environment variable {_ENVIRONMENT_VARIABLE}.",
    ]
    return "\n".join(lines)
