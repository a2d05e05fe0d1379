"""The image data sets: digits (embedded in scikit-learn), MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

Splits: the official test set is the test set; validation is the end of the training file. For MNIST and
Fashion-MNIST these are the 50,000/10,000/10,000 of Ivanov & Michmizos 2021 (file order). All are
`ImageClassificationDataModule`s and take its arguments.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from plasticity_lightning.data import catalogue
from plasticity_lightning.data.errors import DataArgumentError, DataFormatError
from plasticity_lightning.data.images.cifar import CIFAR10_BATCHES, CIFAR100_BATCHES, read_cifar
from plasticity_lightning.data.images.idx import read_idx_pair
from plasticity_lightning.data.images.image_datamodule import ImageClassificationDataModule, ImageFiles
from plasticity_lightning.data.images.image_zip import read_image_zip
from plasticity_lightning.data.sources import Source, cache_folder, locate

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageClassificationDataModule",
    "MNISTDataModule",
]

_DIGIT_NAMES = tuple("0123456789")
_CIFAR100_NAMES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905
)
_log = logging.getLogger(__name__)


class DigitsDataModule(ImageClassificationDataModule):
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn embeds: no file, no download.

    Values 0..16 become 0..255 (rounded). There is no official split, so the items are put into a stratified random
    order that depends on `split_seed` alone: every stretch of it holds the classes in nearly equal shares. The first
    1,497 are the training file, the last 300 the test set. `root` and `download` have no effect.

    Args:
        val_size: as in the base class; the default splits 1,197/300/300.
        split_seed: of the order, at least 0.
        **kwargs: arguments of `ImageClassificationDataModule`.
    """

    n_classes = 10
    image_shape = (1, 8, 8)
    class_names = _DIGIT_NAMES
    mean = (0.3053,)
    std = (0.3762,)

    _n_test: ClassVar[int] = 300

    def __init__(self, val_size: int | float = 300, split_seed: int = 0, **kwargs: Any) -> None:
        if split_seed < 0:
            raise DataArgumentError(f"split_seed={split_seed}: must be an integer of at least 0.")
        super().__init__(val_size=val_size, **kwargs)
        self.split_seed = split_seed

    def read(self) -> ImageFiles:
        """Take the digits from scikit-learn and order them."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = bunch.target.astype(np.int64)
        order = _stratified_order(labels, self.split_seed)
        train, test = order[: -self._n_test], order[-self._n_test :]
        return ImageFiles(images[train], labels[train], images[test], labels[test])


class MNISTDataModule(ImageClassificationDataModule):
    """MNIST: 28x28 grey images of handwritten digits; 50,000/10,000/10,000 in file order."""

    n_classes = 10
    image_shape = (1, 28, 28)
    class_names = _DIGIT_NAMES
    mean = (0.1307,)
    std = (0.3081,)

    def read(self) -> ImageFiles:
        """Read the four IDX files."""
        return _read_idx_files(catalogue.MNIST, self.root, self.download)


class FashionMNISTDataModule(ImageClassificationDataModule):
    """Fashion-MNIST: 28x28 grey images of clothing; 50,000/10,000/10,000 in file order."""

    n_classes = 10
    image_shape = (1, 28, 28)
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    mean = (0.2860,)
    std = (0.3530,)

    def read(self) -> ImageFiles:
        """Read the four IDX files."""
        return _read_idx_files(catalogue.FASHION_MNIST, self.root, self.download)


class CIFAR10DataModule(ImageClassificationDataModule):
    """CIFAR-10: 32x32 colour images, 45,000/5,000/10,000 by default, from the official files or a zip of JPEGs.

    `data_name` tells which: `"CIFAR-10"`, or `"CIFAR-10 (JPEG)"`, whose lossy images give other figures; put it
    beside every result.

    Args:
        val_size: as in the base class.
        **kwargs: arguments of `ImageClassificationDataModule`.
    """

    n_classes = 10
    image_shape = (3, 32, 32)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    def __init__(self, val_size: int | float = 5_000, **kwargs: Any) -> None:
        super().__init__(val_size=val_size, **kwargs)
        self.data_name = "CIFAR-10"

    def read(self) -> ImageFiles:
        """Read the official batches or, where only that is found, the zip of JPEGs."""
        found = locate(catalogue.CIFAR10, self.root, self.download)
        if found.layout != "jpeg_zip":
            return _read_cifar_files(found.layout, dict(found.paths), CIFAR10_BATCHES, "labels", self.n_classes)
        archive = found.paths["archive"]
        self.data_name = "CIFAR-10 (JPEG)"
        _log.warning("%s: lossy JPEGs; results are to be reported as %s", archive, self.data_name)
        size, cache = self.image_shape[1:], cache_folder() / "decoded"
        return ImageFiles(
            *read_image_zip(archive, "train", self.class_names, size, cache),
            *read_image_zip(archive, "test", self.class_names, size, cache),
        )


class CIFAR100DataModule(ImageClassificationDataModule):
    """CIFAR-100 with its 100 fine classes: 32x32 colour images, 45,000/5,000/10,000 by default.

    Args:
        val_size: as in the base class.
        **kwargs: arguments of `ImageClassificationDataModule`.
    """

    n_classes = 100
    image_shape = (3, 32, 32)
    class_names = _CIFAR100_NAMES
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)

    def __init__(self, val_size: int | float = 5_000, **kwargs: Any) -> None:
        super().__init__(val_size=val_size, **kwargs)

    def read(self) -> ImageFiles:
        """Read the official batches."""
        found = locate(catalogue.CIFAR100, self.root, self.download)
        return _read_cifar_files(found.layout, dict(found.paths), CIFAR100_BATCHES, "fine_labels", self.n_classes)


def _read_idx_files(source: Source, root: str | None, download: bool) -> ImageFiles:
    paths = locate(source, root, download).paths
    train = read_idx_pair(paths["train_images"], paths["train_labels"], 10)
    test = read_idx_pair(paths["test_images"], paths["test_labels"], 10)
    fingerprint = hashlib.md5(test[1].astype(np.uint8).tobytes(), usedforsecurity=False).hexdigest()
    actual = catalogue.TEST_LABEL_FINGERPRINTS.get(fingerprint, source.title)
    if actual != source.title:  # the two data sets use the same file names
        raise DataFormatError(f"{paths['test_labels']}: these are the files of {actual}, not of {source.title}.")
    return ImageFiles(*train, *test)


def _read_cifar_files(
    layout: str, paths: dict[str, Path], batches: dict[str, tuple[str, ...]], label_key: str, n_classes: int
) -> ImageFiles:
    path = paths["archive"] if layout == "archive" else next(iter(paths.values())).parent
    splits = read_cifar(path, batches, label_key, n_classes)
    return ImageFiles(*splits["train"], *splits["test"])


def _stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order in which each class is spread evenly: item r of n in its class is placed at (r + 1/2) / n."""
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[generator.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, place))
