"""Images in class folders, as ImageNet is kept: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, decoded by worker processes.

The standard pipeline for ImageNet: a random resized crop and a mirror image in training; the short side resized and the
centre cut out in evaluation. Workers hand over uint8 batches; scaling to floats happens on the device. Crop and mirror
of an image are a function of (seed, epoch, index) alone: the number of workers or devices and a resume change nothing.

Sources: Russakovsky et al. 2015 (ImageNet); Szegedy et al. 2015, "Going Deeper with Convolutions" (the crop).
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data import catalogue
from plasticity_lightning.data.errors import DataArgumentError, DataFormatError
from plasticity_lightning.data.loading import check_loader_arguments, limited, split_sizes
from plasticity_lightning.data.sources import locate
from plasticity_lightning.runtime.loaders import ResumableDataLoader, SeededSampler

__all__ = ["ImageFolderDataModule", "center_box", "random_resized_box", "read_image"]

_SUFFIXES = (".jpeg", ".jpg", ".png")
Box = tuple[float, float, float, float]


class ImageFolderDataModule(LightningDataModule):
    """ImageNet, or any images in class folders.

    A batch is the pair `(image, label)`: float32 [B, 3, image_size, image_size], normalised, and int64 [B], the
    position of the class folder in sorted order. The folder `val` is the test set; it also serves for validation unless
    `val_size` holds out training images (then the last ones, in an order that takes the classes in turn).

    Args:
        root: folder that holds `train` and `val`, or one above it; see `plasticity_lightning.data.sources`.
        batch_size: items a batch and device, at least 1.
        image_size: height and width of the batches, at least 1.
        resize: length of the short side before the centre is cut out, at least `image_size`.
        val_size: training images for validation: a number (int), or a share (float); 0 validates on `val`.
        shuffle: whether training batches follow a new order in each epoch, a function of (seed, epoch).
        seed: of order and augmentation, at least 0.
        num_workers: worker processes; decoding is what takes the time.
        augment: random resized crop and mirror in training; False treats training images as in evaluation.
        scale: smallest and largest area of the crop, as a share of the image.
        ratio: smallest and largest width over height of the crop.
        mean: subtracted per channel after scaling to [0, 1].
        std: divisor per channel.
        limit_train: use only the first so many training items, the classes in turn.
        limit_val: likewise for validation.
        limit_test: likewise for the test.

    Raises:
        DataArgumentError: if an argument is out of range.
        DataNotFoundError: at setup, if there are no such folders.
        DataFormatError: at setup, if a folder holds no images or the classes of `train` and `val` differ; in training, if
            an image cannot be decoded.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        image_size: int = 224,
        resize: int = 256,
        val_size: int | float = 0,
        shuffle: bool = True,
        seed: int = 0,
        num_workers: int = 5,
        augment: bool = True,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
    ) -> None:
        super().__init__()
        self.limits = {"limit_train": limit_train, "limit_val": limit_val, "limit_test": limit_test}
        check_loader_arguments(batch_size, num_workers, seed, self.limits, val_size)
        if not 1 <= image_size <= resize:
            raise DataArgumentError(f"image_size={image_size}: must lie between 1 and resize={resize}.")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise DataArgumentError(f"scale={scale}: must be two shares of the area with 0 < low <= high <= 1.")
        if not 0 < ratio[0] <= ratio[1]:
            raise DataArgumentError(f"ratio={ratio}: must be two positive numbers, low <= high.")
        if min(std) <= 0:
            raise DataArgumentError(f"std={std}: must be positive.")
        self.root, self.batch_size, self.num_workers = root, batch_size, num_workers
        self.image_size, self.resize, self.val_size = image_size, resize, val_size
        self.shuffle, self.seed, self.augment, self.scale, self.ratio = shuffle, seed, augment, scale, ratio
        self.mean, self.std = mean, std
        self.class_names: tuple[str, ...] = ()
        self._splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def setup(self, stage: str | None = None) -> None:
        """List the files; all stages share the list."""
        if self._splits:
            return
        found = locate(catalogue.IMAGENET, self.root, allow_download=False).paths
        names, paths, labels = _list_images(found["train"])
        test_names, test_paths, test_labels = _list_images(found["val"])
        if names != test_names:
            odd = sorted(set(names) ^ set(test_names))
            raise DataFormatError(
                f"{found['train']} and {found['val']} must hold the same class folders; only in one of them: {odd[:5]}."
            )
        self.class_names = names
        n_train, n_val = split_sizes(len(paths), self.val_size)
        splits = {"train": (paths[:n_train], labels[:n_train]), "test": (test_paths, test_labels)}
        splits["val"] = (paths[n_train:], labels[n_train:]) if n_val else splits["test"]
        for split, (files, classes) in splits.items():
            end = limited(f"limit_{split}", self.limits[f"limit_{split}"], len(files))
            self._splits[split] = files[:end], classes[:end]

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented training batches, in a new order in each epoch if `shuffle`."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches in file order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches in file order."""
        return self._loader("test")

    predict_dataloader = test_dataloader

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Scale and normalise, on the device."""
        image, label = batch
        mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (self.mean, self.std))
        return image.float().div_(255).sub_(mean).div_(std), label

    def _loader(self, split: Literal["train", "val", "test"]) -> DataLoader[Any]:
        paths, labels = self._splits[split]
        training = split == "train"
        crop = (self.scale, self.ratio, self.seed) if training and self.augment else None
        dataset = _DecodedBatches(paths, labels, self.image_size, self.resize, crop)
        return ResumableDataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=_EpochSampler(len(paths), self.seed, training and self.shuffle),
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def random_resized_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Box:
    """A random part of an image: its area uniform in `scale`, the logarithm of width over height uniform in `ratio`.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height.
        generator: of the choice.

    Returns:
        (left, top, right, bottom) inside the image; after ten boxes that do not fit, the largest central one whose
        ratio is allowed.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area, shape, x, y = torch.rand(4, generator=generator).tolist()
        target = width * height * (scale[0] + area * (scale[1] - scale[0]))
        aspect = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = round(x * (width - w)), round(y * (height - h))
            return left, top, left + w, top + h
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def center_box(width: int, height: int, image_size: int, resize: int) -> Box:
    """The part of an image that is left when its short side is resized to `resize` and the centre is cut out.

    Returns:
        (left, top, right, bottom): a square of image_size / resize of the short side.
    """
    side = min(width, height) * image_size / resize
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def read_image(
    path: Path | str, image_size: int, resize: int, crop: tuple[Any, Any, torch.Generator] | None = None
) -> np.ndarray:
    """Decode an image as RGB and scale a part of it to a square.

    Args:
        path: of the file.
        image_size: height and width of the result.
        resize: see `center_box`.
        crop: (scale, ratio, generator) of a random part and a mirror image with probability 1/2; None takes the centre.

    Returns:
        uint8 [3, image_size, image_size].

    Raises:
        DataFormatError: if the file is no complete image.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataFormatError(f"{path}: not a readable image ({error}).") from None
    if crop is None:
        box = center_box(*image.size, image_size, resize)
    else:
        scale, ratio, generator = crop
        box = random_resized_box(*image.size, scale, ratio, generator)
    pixels = np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box)).transpose(2, 0, 1)
    mirrored = crop is not None and bool(torch.rand((), generator=crop[2]) < 0.5)
    return pixels[:, :, ::-1] if mirrored else pixels


class _EpochSampler(SeededSampler):
    """Indices with the epoch packed in, `epoch * length + index`, so that a worker process knows the epoch."""

    def __iter__(self) -> Iterator[int]:
        return (self.epoch * self.length + index for index in super().__iter__())


class _DecodedBatches(Dataset[Any]):
    """Decodes a whole batch in one worker process."""

    def __init__(
        self, paths: np.ndarray, labels: np.ndarray, image_size: int, resize: int, crop: tuple[Any, Any, int] | None
    ) -> None:
        self.paths, self.labels, self.image_size, self.resize, self.crop = paths, labels, image_size, resize, crop

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, codes: list[int]) -> tuple[Tensor, Tensor]:
        images = np.empty((len(codes), 3, self.image_size, self.image_size), np.uint8)
        rows = [code % len(self) for code in codes]
        for position, (code, row) in enumerate(zip(codes, rows, strict=True)):
            crop = None
            if self.crop is not None:
                scale, ratio, seed = self.crop
                crop = scale, ratio, torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + code) % (1 << 63))
            images[position] = read_image(os.fsdecode(self.paths[row]), self.image_size, self.resize, crop)
        return torch.from_numpy(images), torch.from_numpy(self.labels[rows])


def _list_images(folder: Path) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(class names, paths as bytes [N], labels int64 [N]): one file of each class in turn."""
    names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    ranked: list[tuple[int, int, str]] = []
    for label, name in enumerate(names):
        files = sorted(entry.name for entry in os.scandir(folder / name) if entry.name.lower().endswith(_SUFFIXES))
        if not files:
            raise DataFormatError(f"{folder / name}: holds no image ({', '.join(_SUFFIXES)}).")
        ranked += [(rank, label, f"{name}/{file}") for rank, file in enumerate(files)]
    if not ranked:
        raise DataFormatError(
            f"{folder}: holds no class folders; images lie in {folder.name}/CLASS/ (ImageNet's validation archive is "
            "flat and has to be sorted into them)."
        )
    ranked.sort()
    # an array of bytes: a list of a million strings would be copied into every worker as it is read
    paths = np.array([os.fsencode(folder / path) for _, _, path in ranked])
    return names, paths, np.array([label for _, label, _ in ranked], np.int64)


def _unchanged(batch: Any) -> Any:
    return batch
