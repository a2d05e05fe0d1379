"""Tiny data sets in the real file formats, for the recipes of every paper."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from plasticity_lightning.cli import app
from tests.recipes.covered import PROPERTY, recorder
from tests.runtime.pickled import names_in


@pytest.fixture(autouse=True)
def _taken_down(record_property, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test trains counts for the coverage of the recipes."""
    monkeypatch.setattr(app, "run", recorder(app.run, lambda name: record_property(PROPERTY, name)))


@pytest.fixture(autouse=True)
def _no_place_in_checkpoints(tmp_path: Path) -> Iterator[None]:
    """No checkpoint that a recipe leaves names a module of the package: it will outlive a move."""
    yield
    assert {path: names for path in tmp_path.rglob("*.ckpt") if (names := names_in(path))} == {}


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root: sixty noisy bars to train on and twenty to test, as MNIST and as Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("mnist", "fashion-mnist"):
        (folder / name).mkdir()
        for part, n in (("train", 60), ("t10k", 20)):
            label = np.arange(n) % 10
            image = rng.integers(0, 20, (n, 28, 28))
            image[np.arange(n), 2 + 2 * label] = 250
            write_idx(folder / name / f"{part}-images-idx3-ubyte.gz", image)
            write_idx(folder / name / f"{part}-labels-idx1-ubyte.gz", label)
    return folder
