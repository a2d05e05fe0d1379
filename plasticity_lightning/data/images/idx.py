"""The IDX format of MNIST and Fashion-MNIST: big-endian header, then unsigned bytes, raw or gzip-compressed.

Header: two zero bytes, the element type (0x08 = unsigned byte), the number of dimensions, then one 32-bit size per
dimension. Everything is checked, because a truncated download otherwise turns into a shorter or a shifted data set.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", file format section.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from plasticity_lightning.data.errors import DataFormatError

__all__ = ["read_idx", "read_idx_pair"]

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_MOST_DEFLATED = 1032


def read_idx(path: str | Path, n_dims: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes.

    Args:
        path: raw or gzip-compressed file; which of the two is told from its first bytes, not from its name.
        n_dims: expected number of dimensions: 1 for labels, 3 for images.

    Returns:
        Writable uint8 array with `n_dims` dimensions.

    Raises:
        DataFormatError: if the file is empty, damaged, not IDX, of another type or dimension, truncated, or longer
            than its header says.
    """
    content = _read_bytes(Path(path), 4 + 4 * n_dims)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataFormatError(
            f"{path}: not an IDX file: it starts with the bytes {content[:4].hex(' ')!r}, "
            f"expected '00 00 08 {n_dims:02x}'."
        )
    kind, dims = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise DataFormatError(f"{path}: IDX element type is 0x{kind:02x}; expected 0x08 (unsigned byte).")
    if dims != n_dims:
        raise DataFormatError(
            f"{path}: IDX file with {dims} dimension(s); expected {n_dims} "
            f"({'labels' if n_dims == 1 else 'images'}). Are the image and label files swapped?"
        )
    start = 4 + 4 * dims
    if len(content) < start:
        raise DataFormatError(f"{path}: truncated inside the IDX header ({len(content)} of {start} bytes).")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dims, 4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) < expected:
        raise DataFormatError(
            f"{path}: truncated: the header announces shape {shape}, that is {expected} bytes; it has {len(content)}."
        )
    if len(content) > expected:
        raise DataFormatError(
            f"{path}: more than the {expected} bytes that shape {shape} needs: trailing bytes, or a wrong header."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def read_idx_pair(images: str | Path, labels: str | Path, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read an image file and its label file and check that they belong together.

    Args:
        images: IDX file with three dimensions.
        labels: IDX file with one dimension.
        n_classes: labels must lie in 0..n_classes-1.

    Returns:
        uint8 images [N, 1, H, W] and int64 labels [N].

    Raises:
        DataFormatError: as `read_idx`, and if the counts differ, there is no image, or a label is out of range.
    """
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise DataFormatError(f"{images} holds {len(pixels)} images but {labels} holds {len(classes)} labels.")
    if pixels.size == 0:
        raise DataFormatError(f"{images}: holds no image (shape {pixels.shape}).")
    if classes.max() >= n_classes:
        raise DataFormatError(f"{labels}: label {classes.max()} found; expected 0..{n_classes - 1}.")
    return pixels[:, None], classes.astype(np.int64)


def _read_bytes(path: Path, header: int) -> bytes:
    """The file's bytes, decompressed: no more of them than the header announces, and one, which tells that there are more."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP_MAGIC
        if size == 0:
            raise DataFormatError(f"{path}: the file is empty.")
        # deflate cannot shrink to less than a 1032nd; a raw file is as long as it is
        most = size * _MOST_DEFLATED if zipped else size
        with gzip.open(path) if zipped else path.open("rb") as stream:
            start = stream.read(header)
            dims = max(header - 4, 0) // 4
            announced = int(np.prod(np.frombuffer(start, ">u4", dims, 4), dtype=object)) if len(start) == header else 0
            return start + stream.read(min(announced, most) + 1)
    except IsADirectoryError:
        raise DataFormatError(f"{path} is a folder; expected an IDX file.") from None
    except EOFError:
        raise DataFormatError(f"{path}: the gzip file is truncated; remove it and get it again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(f"{path}: the gzip file is damaged ({error}); remove it and get it again.") from None
