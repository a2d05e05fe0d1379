import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plasticity_lightning.data import DataFormatError
from plasticity_lightning.data.images.idx import read_idx, read_idx_pair
from tests.data.real_formats import idx_bytes


def test_hand_written_bytes_are_read(tmp_path):
    # two images of 1 x 3: magic 00 00 08 03, sizes 2, 1, 3 as big-endian 32-bit, then six bytes
    path = tmp_path / "f"
    path.write_bytes(bytes.fromhex("00000803 00000002 00000001 00000003 010203 ff0040"))
    array = read_idx(path, 3)
    assert array.tolist() == [[[1, 2, 3]], [[255, 0, 64]]]
    assert array.dtype == np.uint8
    assert array.flags.writeable


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)), st.booleans())
def test_round_trip(tmp_path_factory, array, compress):
    path = tmp_path_factory.mktemp("idx") / "f"
    path.write_bytes(gzip.compress(idx_bytes(array), mtime=0) if compress else idx_bytes(array))
    assert np.array_equal(read_idx(path, 3), array)


def test_no_more_is_expanded_than_the_header_announces(tmp_path, monkeypatch):
    path = tmp_path / "bomb"
    # 64 MiB of zeros behind a header of eight, and a header that announces a terabyte, in a few kilobytes each
    eight = gzip.compress(idx_bytes(np.zeros((2, 2, 2))) + bytes(1 << 26), mtime=0)
    tera = gzip.compress(bytes.fromhex("00000803 00010000 00001000 00001000") + bytes(1 << 20), mtime=0)
    read = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read.append(size) or original(self, size))
    for content in (eight, tera):
        path.write_bytes(content)
        with pytest.raises(DataFormatError, match=r"more than the 24 bytes|truncated"):
            read_idx(path, 3)
        assert 0 < max(read) <= 1032 * len(content) + 1
        assert min(read) > 0  # never "all there is"


GOOD = idx_bytes(np.zeros((2, 2, 2)))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"\0\0", "not an IDX file"),
        (b"PNG and more", "not an IDX file"),
        (GOOD[:10], "truncated inside the IDX header"),
        (GOOD[:-1], "truncated: the header announces"),
        (GOOD + b"x", "trailing byte"),
        (idx_bytes(np.zeros((2, 2, 2)), kind=0x0D), "element type is 0x0d"),
        (idx_bytes(np.zeros(4)), "1 dimension"),
        (bytes.fromhex("00000803 ffffffff ffffffff ffffffff 00"), "truncated: the header announces"),
        (gzip.compress(GOOD, mtime=0)[:-12], "gzip file is truncated"),
        (gzip.compress(b"", mtime=0), "not an IDX file"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 30, "gzip file is damaged"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(tmp_path, content, fault):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match=fault) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_images_and_labels_must_belong_together(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx_bytes(np.zeros((3, 2, 2))))
    labels.write_bytes(idx_bytes(np.array([0, 9])))
    with pytest.raises(DataFormatError, match=r"3 images but .* 2 labels"):
        read_idx_pair(images, labels, 10)
    labels.write_bytes(idx_bytes(np.array([0, 10, 1])))
    with pytest.raises(DataFormatError, match=r"label 10 found; expected 0\.\.9"):
        read_idx_pair(images, labels, 10)
    with pytest.raises(DataFormatError, match="swapped"):
        read_idx_pair(labels, images, 10)
    images.write_bytes(idx_bytes(np.zeros((0, 2, 2))))
    labels.write_bytes(idx_bytes(np.zeros(0)))
    with pytest.raises(DataFormatError, match="holds no image"):
        read_idx_pair(images, labels, 10)
