"""The "python version" of CIFAR-10 and CIFAR-100: pickled batches, in the official tar.gz or extracted from it.

Each batch is a dict with `data`, uint8 [N, 3072] (red plane, green plane, blue plane, row-major), and `labels`
(CIFAR-10) or `fine_labels` (CIFAR-100). A pickle may run code when it is loaded, so the reader here only rebuilds
numpy arrays and built-in containers and refuses everything else.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images", and the data set's page.
"""

import codecs
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from plasticity_lightning.data.errors import DataFormatError

__all__ = ["CIFAR10_BATCHES", "CIFAR100_BATCHES", "read_cifar", "safe_unpickle"]

CIFAR10_BATCHES: dict[str, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
CIFAR100_BATCHES: dict[str, tuple[str, ...]] = {"train": ("train",), "test": ("test",)}

_MOST_BYTES = 1 << 28  # of one batch; CIFAR-100's largest has 155 million

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # how Python 3 writes bytes in pickle protocol 2
}


def read_cifar(
    path: str | Path, batches: dict[str, tuple[str, ...]], label_key: str, n_classes: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the training and the test batches.

    Args:
        path: the official `.tar.gz`, or the folder extracted from it.
        batches: batch names by split, in the order in which they are joined: `CIFAR10_BATCHES` or `CIFAR100_BATCHES`.
        label_key: `"labels"` (CIFAR-10) or `"fine_labels"` (CIFAR-100).
        n_classes: labels must lie in 0..n_classes-1.

    Returns:
        `{"train": (images, labels), "test": (images, labels)}`, uint8 [N, 3, 32, 32] and int64 [N], in file order.

    Raises:
        DataFormatError: naming the file, if it is empty, damaged, lacks a batch, or a batch is not what it should be.
    """
    path = Path(path)
    names = [name for split in batches.values() for name in split]
    contents = _from_folder(path, names) if path.is_dir() else _from_archive(path, names)
    parsed = {name: _parse(contents[name], f"{path}: {name}", label_key, n_classes) for name in names}
    return {
        split: (np.concatenate([parsed[n][0] for n in members]), np.concatenate([parsed[n][1] for n in members]))
        for split, members in batches.items()
    }


def safe_unpickle(content: bytes) -> Any:
    """Load a pickle that holds nothing but numpy arrays and built-in containers; `bytes` stay bytes.

    Raises:
        pickle.UnpicklingError: if the pickle asks for anything else, or is damaged.
    """
    return _RestrictedUnpickler(io.BytesIO(content), encoding="bytes").load()


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs") from None


def _from_folder(folder: Path, names: list[str]) -> dict[str, bytes]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataFormatError(f"{folder}: lacks the batch file(s) {', '.join(missing)}.")
    return {name: (folder / name).read_bytes() for name in names}


def _from_archive(archive: Path, names: list[str]) -> dict[str, bytes]:
    if archive.stat().st_size == 0:
        raise DataFormatError(f"{archive}: the file is empty.")
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if member.size > _MOST_BYTES:  # also of a stranger: to pass it, all of it is expanded
                    raise DataFormatError(
                        f"{archive}: {name} expands to {member.size} bytes; a CIFAR batch has at most {_MOST_BYTES}."
                    )
                stream = tar.extractfile(member) if member.isfile() and name in names else None
                if stream is not None:
                    contents[name] = stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataFormatError(
            f"{archive}: damaged or truncated tar archive ({error}); remove it and get it again."
        ) from None
    missing = [name for name in names if name not in contents]
    if missing:
        raise DataFormatError(f"{archive}: lacks the batch file(s) {', '.join(missing)}.")
    return contents


def _parse(content: bytes, where: str, label_key: str, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    if not content:
        raise DataFormatError(f"{where}: the file is empty.")
    try:
        batch = safe_unpickle(content)
    except Exception as error:  # a damaged pickle may raise nearly any built-in exception
        raise DataFormatError(f"{where}: not a readable CIFAR batch ({type(error).__name__}: {error}).") from None
    if not isinstance(batch, dict):
        raise DataFormatError(f"{where}: holds a {type(batch).__name__}; expected a dict.")
    entries = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    for key in ("data", label_key):
        if key not in entries:
            raise DataFormatError(f"{where}: has no entry {key!r}; it has {sorted(map(str, entries))}.")
    data = entries["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataFormatError(f"{where}: entry 'data' is {found}; expected uint8 (N, 3072).")
    labels = np.asarray(entries[label_key])
    if labels.shape != (len(data),) or labels.dtype.kind not in "iu":
        raise DataFormatError(
            f"{where}: {len(data)} images but {label_key!r} has shape {labels.shape} of {labels.dtype}; "
            "expected one integer per image."
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise DataFormatError(f"{where}: labels {labels.min()}..{labels.max()} found; expected 0..{n_classes - 1}.")
    return data.reshape(-1, 3, 32, 32), labels.astype(np.int64)
