"""Writers of small files in the real formats of the data sets."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def idx_bytes(array, kind=0x08):
    header = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_set(folder, n_train=30, n_test=10, compress=True):
    """The four files; image i is filled with the value i, its label is i % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, n in (("train", n_train), ("t10k", n_test)):
        images = np.tile(np.arange(n, dtype=np.uint8)[:, None, None], (1, 28, 28))
        for name, array in (("images-idx3", images), ("labels-idx1", np.arange(n) % 10)):
            content = idx_bytes(array)
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(content) if compress else content)
    return folder


def cifar_batch(n, n_classes, label_key, first=0):
    """As the official files: bytes keys, as Python 2 wrote them; image i is filled with the value first + i."""
    data = np.repeat(np.arange(first, first + n, dtype=np.uint8)[:, None], 3072, axis=1)
    return {b"data": data, label_key.encode(): [(first + i) % n_classes for i in range(n)], b"batch_label": b"x"}


def write_cifar10_folder(folder, n=4):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(5):
        (folder / f"data_batch_{i + 1}").write_bytes(pickle.dumps(cifar_batch(n, 10, "labels", n * i), protocol=2))
    (folder / "test_batch").write_bytes(pickle.dumps(cifar_batch(n, 10, "labels", 100), protocol=2))
    return folder


def tar_gz(folder, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def jpeg_bytes(value, size=(32, 32), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def write_image_zip(path, per_class=2, classes=CIFAR10_CLASSES, prefix="", extra=None):
    """Grey images; value = 10 * class + 100 * rank."""
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "test"):
            for label, name in enumerate(classes):
                for rank in reversed(range(per_class)):  # archive order is not the order of the data set
                    content = jpeg_bytes(10 * label + 100 * rank)
                    archive.writestr(f"{prefix}{split}/{name}/{rank:04d}.jpg", content)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


def event_bytes(events):
    """Independent encoder: one (x, y, t, p) at a time, by the format's definition."""
    return b"".join(bytes([x, y]) + ((p << 23) | t).to_bytes(3, "big") for x, y, t, p in events)
