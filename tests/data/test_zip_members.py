"""Members of zip files are never expanded past what they may have, or past what their header says."""

import tracemalloc
import zipfile

import pytest

from plasticity_lightning.data import DataFormatError
from plasticity_lightning.data.zip_members import read_member

BIG = 5 << 20


def archive_of(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.bin", content)
    return path


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 40])
def test_a_member_within_its_bound_is_read_whole(tmp_path, content):
    with zipfile.ZipFile(archive_of(tmp_path / "z.zip", content)) as archive:
        assert read_member(archive, "a/1.bin", len(content), "it has at most") == content


def test_a_member_past_its_bound_is_not_opened(tmp_path, monkeypatch):
    with zipfile.ZipFile(archive_of(tmp_path / "z.zip", b"")) as archive:
        monkeypatch.setattr(archive, "open", lambda *_: pytest.fail("it was opened"))
        archive.getinfo("a/1.bin").file_size = 11
        with pytest.raises(DataFormatError, match=r"z\.zip: a/1\.bin expands to 11 bytes; it has at most 10\."):
            read_member(archive, "a/1.bin", 10, "it has at most")


def test_a_header_that_lies_costs_no_memory(tmp_path):
    path = archive_of(tmp_path / "z.zip", bytes(BIG))
    path.write_bytes(path.read_bytes().replace(BIG.to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("a/1.bin").file_size == 10
        tracemalloc.start()
        with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
            read_member(archive, "a/1.bin", 100, "it has at most")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < BIG / 10
