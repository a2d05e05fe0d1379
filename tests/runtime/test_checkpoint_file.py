"""Checkpoint files: every flipped bit is seen, and what cannot be read is told in one sentence."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.runtime.atomic_file import FileWriteError, atomic_file, clear_stale
from plasticity_lightning.runtime.checkpoint_file import (
    CheckpointError,
    missing_parts,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)

STATE = {"state_dict": {"w": torch.arange(12.0)}, "epoch": 3, "nested": [1, (2.5, "x"), {"y": None}]}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    write_checkpoint(STATE, path)
    return path


def test_what_was_written_is_read_and_torch_reads_it_too(written: Path) -> None:
    for content in (read_checkpoint(written), torch.load(written, weights_only=True), torch.load(written, mmap=True)):
        assert torch.equal(content["state_dict"]["w"], STATE["state_dict"]["w"])
        assert content["nested"] == STATE["nested"]


@settings(max_examples=150)
@given(st.data())
def test_every_flipped_bit_is_seen(written: Path, data: st.DataObject) -> None:
    content = bytearray(written.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    damaged = written.parent / "damaged.ckpt"
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|no checkpoint"):
        verify_checkpoint(damaged)


def test_without_a_digest_the_members_checksums_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "lightning.ckpt"
    torch.save(STATE, path)
    verify_checkpoint(path)
    content = bytearray(path.read_bytes())
    at = content.index(STATE["state_dict"]["w"].numpy().tobytes())
    content[at + 5] ^= 1  # a weight
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum of its part .* is wrong"):
        verify_checkpoint(path)


class Anything:
    """Not allowed in a checkpoint."""


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"GIF89a" * 9), "no checkpoint of torch"),
        (lambda path: path.mkdir(), "is a folder"),
        (
            lambda path: torch.save({"weights": 1}, path),
            r"no checkpoint of Lightning: it holds a dict of \['weights'\]",
        ),
        (lambda path: torch.save([1, 2], path), "no checkpoint of Lightning: it holds list"),
        (lambda path: torch.save({"state_dict": {}, "x": Anything()}, path), "more than numbers and text.*Anything"),
        (
            lambda path: write_checkpoint(STATE, path) or path.write_bytes(path.read_bytes()[:-500]),
            "damaged or cut short",
        ),
    ],
)
def test_what_is_no_checkpoint_is_told(tmp_path: Path, make, fault: str) -> None:
    path = tmp_path / "x.ckpt"
    make(path)
    with pytest.raises(CheckpointError, match=fault):
        read_checkpoint(path)


def test_what_a_checkpoint_lacks_is_said() -> None:
    with pytest.raises(CheckpointError, match="weights only"):
        missing_parts(STATE, Path("x"))
    with pytest.warns(UserWarning, match="cannot go on exactly") as said:
        missing_parts(STATE | {"optimizer_states": [], "lr_schedulers": [], "callbacks": {"a": 1}}, Path("x"))
    assert [str(w.message).split(":")[0] for w in said] == ["x holds no loops", "x holds no rng_state"]


def test_a_full_disk_keeps_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint({"i": 1}, path)
    # a limit on the size of files refuses a write in the middle of a file, as a full disk does
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(FileWriteError, match=r"cannot write .*last\.ckpt: File too large"):
            write_checkpoint({"x": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert torch.load(path, weights_only=True) == {"i": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_stale_temporaries_go_and_those_being_written_stay(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.01234abc.tmp").write_bytes(b"left by a killed process")
    (tmp_path / ".another.programs.tmp").write_bytes(b"not ours")
    with atomic_file(tmp_path / "other") as file:
        file.write(b"being written")
        assert clear_stale(tmp_path) == 1
        assert sorted(p.name.split(".")[1] for p in tmp_path.iterdir()) == ["another", "other"]
    assert (tmp_path / "other").read_bytes() == b"being written"


def test_an_error_of_the_block_passes_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError), atomic_file(tmp_path / "x"):
        raise TimeoutError
    with pytest.raises(FileWriteError, match="cannot write"), atomic_file(Path("/dev/null/x")):
        pass
    assert not list(tmp_path.iterdir())
