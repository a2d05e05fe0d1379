import gzip
import os
import pickle
import tarfile

import numpy as np
import pytest

from plasticity_lightning.data import DataFormatError
from plasticity_lightning.data.images.cifar import CIFAR10_BATCHES, CIFAR100_BATCHES, read_cifar, safe_unpickle
from tests.data.real_formats import cifar_batch, tar_gz, write_cifar10_folder


def read10(path):
    return read_cifar(path, CIFAR10_BATCHES, "labels", 10)


def test_batches_are_joined_in_order_from_folder_and_archive(folder):
    batches = write_cifar10_folder(folder / "cifar-10-batches-py")
    for path in (batches, tar_gz(batches, folder / "cifar-10-python.tar.gz")):
        splits = read10(path)
        images, labels = splits["train"]
        assert images.shape == (20, 3, 32, 32)
        assert images.dtype == np.uint8
        assert images[:, 0, 0, 0].tolist() == list(range(20))
        assert labels.tolist() == [i % 10 for i in range(20)]
        assert splits["test"][0][:, 2, 31, 31].tolist() == [100, 101, 102, 103]


def test_planes_are_red_green_blue_row_major(folder):
    batch = cifar_batch(1, 100, "fine_labels")
    batch[b"data"] = np.arange(3072, dtype=np.int64).astype(np.uint8)[None]
    batch[b"data"][0, 1024 + 32 + 5] = 7  # green plane, row 1, column 5
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    images, labels = read_cifar(folder, CIFAR100_BATCHES, "fine_labels", 100)["train"]
    assert images[0, 1, 1, 5] == 7
    assert labels.tolist() == [0]


def test_arrays_pickled_by_any_numpy_are_read():
    # numpy 1 wrote numpy.core.multiarray, numpy 2 writes numpy._core.multiarray
    content = pickle.dumps(np.arange(3, dtype=np.uint8), protocol=2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != content
    assert safe_unpickle(content).tolist() == safe_unpickle(old).tolist() == [0, 1, 2]


def test_a_pickle_that_would_run_code_is_refused(folder):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(folder / "owned"),)

    write_cifar10_folder(folder)
    (folder / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil()}, protocol=2))
    with pytest.raises(DataFormatError, match=r"data_batch_2.*asks for posix\.mkdir"):
        read10(folder)
    assert not (folder / "owned").exists()


@pytest.mark.parametrize(
    ("batch", "fault"),
    [
        ([1, 2], "holds a list"),
        ({b"labels": [0]}, "no entry 'data'"),
        (cifar_batch(2, 10, "fine_labels"), "no entry 'labels'"),
        ({b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]}, r"expected uint8 \(N, 3072\)"),
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}, "is float32"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "2 images but 'labels'"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, r"labels 0\.\.10 found"),
    ],
)
def test_a_wrong_batch_is_named_with_its_fault(folder, batch, fault):
    write_cifar10_folder(folder)
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataFormatError, match=fault) as caught:
        read10(folder)
    assert "test_batch" in str(caught.value)


@pytest.mark.parametrize("name", ["data_batch_3", "stranger"])
def test_a_member_that_expands_past_any_batch_is_refused_before_it_is_read(folder, name):
    archive, member = folder / "cifar-10-python.tar.gz", tarfile.TarInfo(f"cifar-10-batches-py/{name}")
    member.size = 1 << 40
    with gzip.open(archive, "wb") as file:
        file.write(member.tobuf() + bytes(10_240))  # a header that announces a terabyte
    with pytest.raises(DataFormatError, match=f"{name} expands to {1 << 40} bytes; a CIFAR batch has at most"):
        read10(archive)


def test_empty_truncated_and_incomplete_files_are_refused(folder):
    batches = write_cifar10_folder(folder / "cifar-10-batches-py")
    archive = tar_gz(batches, folder / "cifar-10-python.tar.gz")
    content = archive.read_bytes()
    for damaged, fault in (
        (b"", "is empty"),
        (content[: len(content) // 2], "damaged or truncated"),
        (b"x", "damaged"),
    ):
        archive.write_bytes(damaged)
        with pytest.raises(DataFormatError, match=fault):
            read10(archive)
    whole = (batches / "data_batch_3").read_bytes()
    for damaged, fault in ((b"", "is empty"), (whole[:500], "not a readable CIFAR batch")):
        (batches / "data_batch_3").write_bytes(damaged)
        with pytest.raises(DataFormatError, match=fault):
            read10(batches)
    (batches / "data_batch_3").unlink()
    with pytest.raises(DataFormatError, match=r"lacks the batch file\(s\) data_batch_3"):
        read10(batches)
    with pytest.raises(DataFormatError, match="lacks the batch"):
        read10(tar_gz(batches, archive))
