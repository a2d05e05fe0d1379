import zipfile

import numpy as np
import pytest

from plasticity_lightning.data import DataFormatError
from plasticity_lightning.data.images.image_zip import read_image_zip
from tests.data.real_formats import CIFAR10_CLASSES, jpeg_bytes, write_image_zip


def read(path, cache, split="train"):
    return read_image_zip(path, split, CIFAR10_CLASSES, (32, 32), cache)


@pytest.mark.parametrize("prefix", ["", "CIFAR-10-images-master/"])
def test_classes_take_turns_and_values_are_decoded(folder, prefix):
    path = write_image_zip(folder / "z.zip", prefix=prefix)
    images, labels = read(path, folder / "cache")
    assert labels.tolist() == list(range(10)) * 2  # first files of all classes, then the second ones
    assert images.shape == (20, 3, 32, 32)
    # flat grey JPEGs are decoded within 2 of their value, 10 * class + 100 * rank
    expected = np.array([10 * c + 100 * r for r in range(2) for c in range(10)])
    assert np.abs(images.astype(int) - expected[:, None, None, None]).max() <= 2


def test_second_reading_comes_from_the_cache_and_a_changed_zip_does_not(folder, monkeypatch):
    path, cache = write_image_zip(folder / "z.zip"), folder / "cache"
    first = read(path, cache)
    (file,) = cache.iterdir()  # and no temporary file is left
    np.save(file, 255 - first[0])
    assert np.array_equal(read(path, cache)[0], 255 - first[0])
    file.write_bytes(file.read_bytes()[:500])  # a damaged cache is decoded anew
    assert np.array_equal(read(path, cache)[0], first[0])
    write_image_zip(path, per_class=3)
    assert len(read(path, cache)[0]) == 30


def test_images_that_expand_past_their_size_are_not_read(folder, monkeypatch):
    path = folder / "z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/1.jpg", bytes(1 << 24))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was read"))
    with pytest.raises(DataFormatError, match=r"1\.jpg expands to 16777216 bytes; an image of 32x32 needs at most"):
        read_image_zip(path, "train", ("a",), (32, 32), folder / "c")


def test_grey_images_become_rgb(folder):
    path = folder / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/a/1.jpg", jpeg_bytes(50, mode="L"))
    images, _ = read_image_zip(path, "train", ("a",), (32, 32), folder / "c")
    assert images.shape == (1, 3, 32, 32)
    assert np.abs(images.astype(int) - 50).max() <= 2


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ({"train/cat/9.jpg": b""}, "9.jpg is not an image"),
        ({"train/cat/9.jpg": b"not a jpeg"}, "9.jpg is not an image"),
        ({"train/cat/9.jpg": jpeg_bytes(1)[:-200]}, "9.jpg cannot be decoded"),
        ({"train/cat/9.jpg": jpeg_bytes(1, size=(32, 31))}, "is 31x32; expected 32x32"),
        ({"train/lion/9.jpg": jpeg_bytes(1)}, r"unexpected \['lion'\]"),
    ],
)
def test_a_faulty_image_is_named(folder, extra, fault):
    path = write_image_zip(folder / "z.zip", extra=extra)
    with pytest.raises(DataFormatError, match=fault) as caught:
        read(path, folder / "cache")
    assert str(path) in str(caught.value)
    assert not (folder / "cache").exists()


def test_faulty_zips_are_refused(folder):
    path = write_image_zip(folder / "z.zip")
    content = path.read_bytes()
    broken = bytearray(content)
    start = content.index(b"\xff\xd8\xff") + 200
    broken[start : start + 20] = b"\0" * 20
    cases = ((b"", "is empty"), (b"PK but no zip", "not a zip"), (content[:-100], "not a zip"), (broken, "CRC"))
    for damaged, fault in cases:
        path.write_bytes(damaged)
        with pytest.raises(DataFormatError, match=fault):
            read(path, folder / "cache")
    write_image_zip(path, classes=CIFAR10_CLASSES[:9])
    with pytest.raises(DataFormatError, match=r"missing \['truck'\]"):
        read(path, folder / "cache")
    with pytest.raises(DataFormatError, match="holds no image under valid/"):
        read(path, folder / "cache", "valid")


def test_an_unwritable_cache_is_no_obstacle(folder, caplog):
    path = write_image_zip(folder / "z.zip")
    (folder / "cache").write_text("a file where the folder should be")
    assert len(read(path, folder / "cache")[0]) == 20
    assert "cannot keep the decoded images" in caplog.text
