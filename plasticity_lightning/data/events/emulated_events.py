"""Recordings of a simulated event camera looking at MNIST, Fashion-MNIST or the digits: an emulation of N-MNIST.

Simulated batch by batch, deterministic by seed and row. Name it "emulated", never "N-MNIST", beside every result.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.events.event_batches import Events
from plasticity_lightning.data.events.event_camera import EventCamera, record
from plasticity_lightning.data.events.event_datamodule import EventDataModule
from plasticity_lightning.data.events.nmnist_format import encode_events
from plasticity_lightning.data.images.datasets import DigitsDataModule, FashionMNISTDataModule, MNISTDataModule
from plasticity_lightning.data.images.image_datamodule import ImageClassificationDataModule

__all__ = ["EmulatedNMNISTDataModule", "EmulatedRecordings"]

_IMAGES: dict[str, type[ImageClassificationDataModule]] = {
    "mnist": MNISTDataModule,
    "fashion_mnist": FashionMNISTDataModule,
    "digits": DigitsDataModule,
}


class EmulatedRecordings:
    """Recordings of images, simulated when they are asked for.

    Args:
        images: uint8 [N, 1, H, W].
        labels: int64 [N].
        seed: of thresholds and noise, at least 0.
        first_key: recording of row r has the key first_key + r, so that two files with one seed differ.
        camera: parameters of the camera.
    """

    def __init__(self, images: Tensor, labels: Tensor, seed: int, first_key: int, camera: EventCamera) -> None:
        self.images, self.labels = images, labels.numpy()
        self.seed, self.first_key, self.camera = seed, first_key, camera

    def batch(self, rows: np.ndarray) -> Events:
        """Events of these rows; `sample` is the position in `rows`."""
        images = self.images[torch.from_numpy(np.asarray(rows, np.int64)), 0]
        return record(images, np.asarray(rows) + self.first_key, self.seed, self.camera)


class EmulatedNMNISTDataModule(EventDataModule):
    """N-MNIST-like recordings of static images by three saccades of a simulated event camera.

    Args:
        root: folder to look in first for the images; see `plasticity_lightning.data.sources`.
        images: which images.
        download: whether to download images that are not found.
        val_size: as in the base class; default 10,000, for `"digits"` 300.
        camera: parameters of the camera, see `EventCamera`; the defaults if null.
        camera_seed: of thresholds and noise, at least 0.
        **kwargs: arguments of `EventDataModule`.
    """

    data_name: ClassVar[str] = "emulated N-MNIST"

    def __init__(
        self,
        root: str | None = None,
        images: Literal["mnist", "fashion_mnist", "digits"] = "mnist",
        download: bool = True,
        val_size: int | float | None = None,
        camera: EventCamera | None = None,
        camera_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if images not in _IMAGES:
            raise DataArgumentError(f"images={images!r}: allowed are {', '.join(map(repr, _IMAGES))}.")
        if camera_seed < 0:
            raise DataArgumentError(f"camera_seed={camera_seed}: must be an integer of at least 0.")
        if val_size is None:
            val_size = 300 if images == "digits" else 10_000
        super().__init__(val_size=val_size, **kwargs)
        self.image_data = _IMAGES[images](root=root, download=download, val_size=val_size)
        self.class_names = self.image_data.class_names  # type: ignore[misc]
        self.camera, self.camera_seed = camera or EventCamera(), camera_seed

    def prepare_data(self) -> None:
        """Download the images on one process, before the others look for them."""
        self.image_data.prepare_data()

    def recordings(self) -> tuple[EmulatedRecordings, EmulatedRecordings]:
        """The images of the training and the test file; they are recorded batch by batch."""
        train, test = self.image_data.arrays("train_file"), self.image_data.arrays("test_file")
        return (
            EmulatedRecordings(*train, self.camera_seed, 0, self.camera),
            EmulatedRecordings(*test, self.camera_seed, len(train[1]), self.camera),
        )

    def export(self, folder: str | Path, split: Literal["train", "val", "test"]) -> int:
        """Write the recordings of a split in N-MNIST's binary format, to be read by `NMNISTDataModule`.

        Args:
            folder: gets `Train/CLASS/NNNNN.bin` (training and validation) or `Test/CLASS/NNNNN.bin`; the number is
                the row in the image file, from 1.
            split: which recordings.

        Returns:
            Number of recordings written.
        """
        recordings, rows = self._split(split)
        place = Path(folder) / ("Test" if split == "test" else "Train")
        for start in range(0, len(rows), 64):
            chunk = rows[start : start + 64]
            events = recordings.batch(chunk)
            for sample, row in enumerate(chunk):
                x, y, t, p = (column[events.sample == sample] for column in events[1:])
                file = place / str(recordings.labels[row]) / f"{row + 1:05d}.bin"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encode_events(x, y, t, p))
        return len(rows)
