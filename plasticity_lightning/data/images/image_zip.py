"""A data set as a zip of image files in class folders: `[PREFIX/]train/CLASS/NNNN.jpg` and `test/CLASS/NNNN.jpg`.

The images are decoded once with Pillow, as RGB, and kept as one uint8 array in a cache folder, so that later runs
start at once. Order: classes by name, files by name within the class, and then one file of each class in turn (first
files of all classes, then the second files, ...), so that the first or last n images of a split hold every class: a
validation set of "the last 5,000" would otherwise be a single class.

Most such zips are JPEGs: lossy, so results on them must say so.
"""

import hashlib
import io
import logging
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from plasticity_lightning.data.errors import DataFormatError
from plasticity_lightning.data.zip_members import read_member
from plasticity_lightning.runtime.atomic_file import FileWriteError, atomic_file, clear_stale

__all__ = ["read_image_zip"]

_SUFFIXES = (".jpg", ".jpeg", ".png")
_OVERHEAD = 1 << 16  # bytes of headers, tables and metadata of one image file
_log = logging.getLogger(__name__)


def read_image_zip(
    path: str | Path, split: str, class_names: tuple[str, ...], image_size: tuple[int, int], cache_dir: str | Path
) -> tuple[np.ndarray, np.ndarray]:
    """Decode one split of a zip of images in class folders, or take it from the cache.

    Args:
        path: the zip file.
        split: name of the folder above the class folders, `"train"` or `"test"`.
        class_names: the expected class folders; a label is the position of its class here.
        image_size: expected (height, width) of every image.
        cache_dir: where the decoded array is kept; its name holds a digest of the zip's names and checksums, so a
            changed zip is decoded anew. Written under a temporary name, then renamed.

    Returns:
        uint8 images [N, 3, H, W] and int64 labels [N], in the order described above.

    Raises:
        DataFormatError: naming the zip and the image, if either is empty, damaged, of another size, or the class
            folders differ from `class_names`.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise DataFormatError(f"{path}: the file is empty.")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _ordered_entries(archive, path, split, class_names)
            labels = np.array([label for label, _ in entries], np.int64)
            shape = (len(entries), 3, *image_size)
            cache = Path(cache_dir) / f"{path.stem}-{split}-{_digest(entries)}.npy"
            images = _read_cache(cache, shape)
            if images is None:
                images = _decode(archive, path, entries, shape)
                _write_cache(cache, images)
    except zipfile.BadZipFile as error:
        raise DataFormatError(f"{path}: not a zip file, or a damaged one ({error}).") from None
    return images, labels


def _ordered_entries(
    archive: zipfile.ZipFile, path: Path, split: str, class_names: tuple[str, ...]
) -> list[tuple[int, zipfile.ZipInfo]]:
    by_class: dict[str, list[zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        parts = PurePosixPath(info.filename).parts
        if len(parts) >= 3 and parts[-3] == split and parts[0] != "__MACOSX" and _is_image(parts[-1]):
            by_class.setdefault(parts[-2], []).append(info)
    if not by_class:
        raise DataFormatError(f"{path}: holds no image under {split}/CLASS/NAME.jpg.")
    if set(by_class) != set(class_names):
        missing, extra = sorted(set(class_names) - set(by_class)), sorted(set(by_class) - set(class_names))
        raise DataFormatError(f"{path}: class folders of {split}/: missing {missing}, unexpected {extra}.")
    ranked = []
    for name, infos in by_class.items():
        for rank, info in enumerate(sorted(infos, key=lambda i: i.filename)):
            ranked.append((rank, name, info))
    ranked.sort(key=lambda item: item[:2])
    return [(class_names.index(name), info) for _, name, info in ranked]


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(_SUFFIXES)


def _digest(entries: list[tuple[int, zipfile.ZipInfo]]) -> str:
    content = "\n".join(f"{label} {info.filename} {info.CRC:08x} {info.file_size}" for label, info in entries)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _decode(
    archive: zipfile.ZipFile, path: Path, entries: list[tuple[int, zipfile.ZipInfo]], shape: tuple[int, ...]
) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError  # only this reader needs Pillow

    _log.info("decoding %d images of %s (once; the result is cached)", shape[0], path)
    images = np.empty(shape, np.uint8)
    most = _OVERHEAD + 2 * shape[1] * shape[2] * shape[3]  # no file format needs more for so many pixels
    for row, (_, info) in enumerate(entries):
        try:
            content = read_member(archive, info.filename, most, f"an image of {shape[2]}x{shape[3]} needs at most")
            with Image.open(io.BytesIO(content)) as image:
                if image.size != (shape[3], shape[2]):  # before it is decoded
                    raise DataFormatError(
                        f"{path}: {info.filename} is {image.size[1]}x{image.size[0]}; expected {shape[2]}x{shape[3]}."
                    )
                pixels = np.asarray(image.convert("RGB"))
        except UnidentifiedImageError:
            raise DataFormatError(f"{path}: {info.filename} is not an image ({info.file_size} bytes).") from None
        except (OSError, EOFError, SyntaxError, RuntimeError, zlib.error, Image.DecompressionBombError) as error:
            raise DataFormatError(f"{path}: {info.filename} cannot be decoded ({error}).") from None
        images[row] = pixels.transpose(2, 0, 1)
    return images


def _read_cache(cache: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    if not cache.is_file():
        return None
    try:
        images = np.load(cache, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        images = None
    if images is None or images.shape != shape or images.dtype != np.uint8:
        _log.warning("the cached array %s is damaged; decoding again", cache)
        return None
    return images


def _write_cache(cache: Path, images: np.ndarray) -> None:
    clear_stale(cache.parent)
    try:
        with atomic_file(cache) as stream:
            np.save(stream, images)
    except FileWriteError as error:
        _log.warning("cannot keep the decoded images (%s); the next run decodes again", error)
