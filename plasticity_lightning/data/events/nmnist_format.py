"""The binary format of N-MNIST: 5 bytes an event, and recordings in class folders or in the official zip files.

Event: x, y, then the polarity in bit 7 of the third byte and the time in microseconds in the 23 bits that remain.
Bytes are decoded by tonic's reader (optional extra `events`). Recordings are `Train/0..9/NNNNN.bin` and
`Test/0..9/NNNNN.bin`; NNNNN is the number of the MNIST image, from 1, and recordings are put in its order.

Source: Orchard et al. 2015, "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades".
"""

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from plasticity_lightning.data.errors import DataFormatError
from plasticity_lightning.data.events.event_batches import Events
from plasticity_lightning.data.zip_members import read_member
from plasticity_lightning.errors import UserError

__all__ = ["NMNISTRecordings", "decode_events", "encode_events", "import_tonic_reader"]

_DTYPE = np.dtype([("x", np.int64), ("y", np.int64), ("t", np.int64), ("p", np.int64)])
_BYTES_PER_EVENT = 5
_MOST_BYTES = 1 << 22  # of one recording of 300 ms; the real ones have about 20,000


def decode_events(content: bytes, name: str) -> np.ndarray:
    """Decode one recording.

    Args:
        content: the bytes of a `.bin` file.
        name: for error messages.

    Returns:
        Structured array with the int64 fields x, y, t (microseconds), p (1 = ON), in file order.

    Raises:
        DataFormatError: if the recording is empty or its size is no multiple of 5 bytes.
        UserError: if tonic is not installed.
    """
    if not content:
        raise DataFormatError(f"{name}: the recording is empty.")
    if len(content) % _BYTES_PER_EVENT:
        raise DataFormatError(
            f"{name}: damaged or truncated recording: {len(content)} bytes, not a multiple of {_BYTES_PER_EVENT}."
        )
    return import_tonic_reader()(io.BytesIO(content), dtype=_DTYPE, is_stream=True)


def encode_events(x: np.ndarray, y: np.ndarray, t: np.ndarray, p: np.ndarray) -> bytes:
    """Bytes of a `.bin` file with these events.

    Args:
        x: columns, 0..255.
        y: rows, 0..239 (240 is the format's mark of a time overflow).
        t: microseconds, 0..2**23-1.
        p: 1 = ON, 0 = OFF.

    Raises:
        ValueError: if a value does not fit the format.
    """
    for name, values, most in (("x", x, 255), ("y", y, 239), ("t", t, 2**23 - 1), ("p", p, 1)):
        if len(values) and not 0 <= values.min() <= values.max() <= most:
            raise ValueError(f"{name} is in {values.min()}..{values.max()}; the format allows 0..{most}.")
    packed = np.empty((len(x), _BYTES_PER_EVENT), np.uint8)
    packed[:, 0], packed[:, 1] = x, y
    packed[:, 2] = (p << 7) | (t >> 16)
    packed[:, 3], packed[:, 4] = (t >> 8) & 0xFF, t & 0xFF
    return packed.tobytes()


class NMNISTRecordings:
    """The recordings of `Train` or `Test`, in the order of their numbers; read one at a time.

    Args:
        path: the folder `Train` or `Test`, or the zip file that holds it.

    Raises:
        DataFormatError: if there is no recording, a name is no number, a class folder is not 0..9, or the zip is
            damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.zipped = not self.path.is_dir()
        self._archive: tuple[int, zipfile.ZipFile] | None = None
        entries = sorted((*_number_and_label(self.path, name), name) for name in self._list())
        if not entries:
            raise DataFormatError(f"{self.path}: holds no recording CLASS/NNNNN.bin.")
        self.numbers = np.array([number for number, _, _ in entries], np.int64)
        self.labels = np.array([label for _, label, _ in entries], np.int64)
        self.names = [name for _, _, name in entries]

    def __len__(self) -> int:
        return len(self.names)

    def events(self, row: int) -> np.ndarray:
        """Events of one recording; see `decode_events`."""
        name = self.names[row]
        if not self.zipped:
            return decode_events((self.path / name).read_bytes(), str(self.path / name))
        try:
            content = read_member(self._open_archive(), name, _MOST_BYTES, "a recording has at most")
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise DataFormatError(f"{self.path}: {name} cannot be read ({error}).") from None
        return decode_events(content, f"{self.path}: {name}")

    def batch(self, rows: np.ndarray) -> Events:
        """Events of several recordings as columns; `sample` is the position in `rows`."""
        recordings = [self.events(int(row)) for row in rows]
        joined = np.concatenate(recordings)
        sample = np.repeat(np.arange(len(rows)), [len(recording) for recording in recordings])
        return Events(sample, joined["x"], joined["y"], joined["t"], joined["p"])

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_archive": None}  # an open file does not travel to a worker process

    def _list(self) -> list[str]:
        if not self.zipped:
            return [file.relative_to(self.path).as_posix() for file in self.path.glob("*/*.bin")]
        if self.path.stat().st_size == 0:
            raise DataFormatError(f"{self.path}: the file is empty.")
        names = self._open_archive().namelist()
        return [n for n in names if n.endswith(".bin") and not n.startswith("__MACOSX")]

    def _open_archive(self) -> zipfile.ZipFile:
        # one handle per process: a forked worker must not share its parent's file position
        if self._archive is None or self._archive[0] != os.getpid():
            try:
                self._archive = os.getpid(), zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise DataFormatError(f"{self.path}: not a zip file, or a damaged one ({error}).") from None
        return self._archive[1]


def import_tonic_reader() -> Callable[..., np.ndarray]:
    """Tonic's reader of N-MNIST files, imported on first use since it is optional and slow to import."""
    try:
        from tonic.io import read_mnist_file
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "tonic":
            raise
        raise UserError(
            "Reading N-MNIST needs tonic, which is not installed: pip install 'plasticity-lightning[events]'"
        ) from None
    return read_mnist_file


def _number_and_label(path: Path, name: str) -> tuple[int, int]:
    file = PurePosixPath(name)
    if not file.stem.isdecimal():
        raise DataFormatError(f"{path}: {name}: the name of a recording must be its number, such as 00001.bin.")
    if file.parent.name not in tuple("0123456789"):
        raise DataFormatError(f"{path}: {name}: the folder of a recording must be its class, 0 to 9.")
    return int(file.stem), int(file.parent.name)
