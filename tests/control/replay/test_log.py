"""The replay's content beside the checkpoints: appended, shared by several checkpoints, whole after kills and a full disk."""

import io
import os
import resource
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from plasticity_lightning.control.replay import FrameReplay
from plasticity_lightning.errors import UserError
from tests.control.replay.histories import CONTINUOUS, SHAPE, Source


@pytest.fixture
def small_segments(monkeypatch):
    """A ring of 48 slots lies in 16 files."""
    monkeypatch.setattr("plasticity_lightning.control.replay.ring_log._SEGMENT_BYTES", 0)


def replay(n=2, capacity=48, **options):
    return FrameReplay(SHAPE, CONTINUOUS, capacity, n_environments=n, pad=1, **options)


def feed(target, source, ticks):
    if not target._ring.count.any():
        target.start(source.frames())
    for _ in range(ticks):
        target.add(source.steps())


def checkpoint(target, folder):
    """What a `.ckpt` holds, after a round through the file format."""
    file = io.BytesIO()
    torch.save({"content": target.append_to(folder), "draws": target.state()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(folder, saved, **options):
    target = replay(seed=99, **options)
    target.restore(folder, saved["content"])
    target.set_state(saved["draws"])
    return target


def assert_same(ours, theirs, ticks=5, seed=7):
    """They hold the same and go on alike."""
    for name in ("count", "size"):
        assert np.array_equal(getattr(ours._ring, name), getattr(theirs._ring, name))
    assert np.array_equal(ours._ring.finished_episodes()[-1:], theirs._ring.finished_episodes()[-1:])
    one, other = Source(2, seed), Source(2, seed)
    for _ in range(ticks):
        if len(theirs):
            a, b = ours.sample(16), theirs.sample(16)
            assert all(torch.equal(getattr(a, k), getattr(b, k)) for k in vars(a))
        feed(ours, one, 1)
        feed(theirs, other, 1)


@settings(max_examples=8, deadline=None)
@given(parts=st.lists(st.integers(0, 40), min_size=1, max_size=4), order=st.sampled_from(["transition", "episode"]))
def test_a_restored_replay_is_the_one_that_was_saved(tmp_path_factory, parts, order):
    folder = tmp_path_factory.mktemp("log")
    source, target = Source(2), replay(order=order)
    target.start(source.frames())
    feed(target, source, 15)  # there is a finished episode
    for ticks in parts:
        feed(target, source, ticks)
        saved = checkpoint(target, folder)
    assert_same(resumed(folder, saved, order=order), target)


@pytest.mark.parametrize("storage", ["memory", "memmap", "device"])
def test_every_storage_is_saved_and_restored(storage, tmp_path):
    source, target = Source(2), replay(storage=storage)
    feed(target, source, 60)
    saved = checkpoint(target, tmp_path)
    assert_same(resumed(tmp_path, saved, storage=storage), target)


def test_a_checkpoint_costs_what_is_new(tmp_path):
    source, target = Source(2), replay(capacity=4000)
    for ticks in (100, 3):
        before = target._ring.count.sum()
        size = sum(path.stat().st_size for path in tmp_path.iterdir())
        feed(target, source, ticks)
        checkpoint(target, tmp_path)
        grown = sum(path.stat().st_size for path in tmp_path.iterdir()) - size
        assert grown == (target._ring.count.sum() - before) * target._ring.record.itemsize


def test_several_checkpoints_are_prefixes_of_one_log(tmp_path, small_segments):
    source, target = Source(2), replay()
    saves, copies = [], []
    for _ in range(6):
        feed(target, source, 7)
        saves.append(checkpoint(target, tmp_path))
        copies.append(target.state())
        target.drop_unreferenced(tmp_path, [saved["content"] for saved in saves])
    for i, saved in enumerate(saves):
        other, again = replay(), Source(2)
        feed(other, again, 7 * (i + 1))
        other.set_state(copies[i])
        assert_same(resumed(tmp_path, saved), other)


def test_resuming_from_an_earlier_checkpoint_leaves_the_later_ones_whole(tmp_path):
    source, target = Source(2), replay()
    feed(target, source, 10)
    early = checkpoint(target, tmp_path)
    feed(target, source, 10)
    late, late_copy = checkpoint(target, tmp_path), target
    branch = resumed(tmp_path, early)
    feed(branch, Source(2, seed=3), 5)
    branched = checkpoint(branch, tmp_path)
    branch.drop_unreferenced(tmp_path, [early["content"], late["content"], branched["content"]])
    assert_same(resumed(tmp_path, late), late_copy)
    assert_same(resumed(tmp_path, branched), branch)
    target.drop_unreferenced(tmp_path, [branched["content"]])  # and may be dropped


def test_a_torn_tail_is_cut_at_resume_and_the_log_goes_on(tmp_path):
    source, target = Source(2), replay(capacity=4000)
    feed(target, source, 5)
    saved = checkpoint(target, tmp_path)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    feed(target, source, 1)
    target.append_to(tmp_path)  # killed before the checkpoint that names it,
    torn = path.read_bytes()[:-3]  # and in the middle of a record
    path.write_bytes(torn)
    after = resumed(tmp_path, saved, capacity=4000)
    after.drop_unreferenced(tmp_path, [saved["content"]])
    assert path.read_bytes() == whole
    feed(after, Source(2, seed=4), 1)
    again = checkpoint(after, tmp_path)
    assert [segment["file"] for segment in again["content"]["segments"]] == [path.name]
    assert_same(resumed(tmp_path, again, capacity=4000), after)


def test_segments_go_when_the_ring_has_overwritten_them(tmp_path, small_segments):
    source, target = Source(2), replay(capacity=48)
    last = None
    for _ in range(15):
        feed(target, source, 6)
        saved = checkpoint(target, tmp_path)
        target.drop_unreferenced(tmp_path, [each["content"] for each in (last, saved) if each])
        last = saved
    # 16 segments hold a full ring; the first and the last one are in part outside it, and two checkpoints overlap
    assert len(list(tmp_path.iterdir())) <= 22
    assert_same(resumed(tmp_path, saved), target)


def test_a_log_in_a_new_folder_holds_everything(tmp_path):
    source, target = Source(2), replay()
    feed(target, source, 60)
    saved = checkpoint(target, tmp_path / "a")
    moved = resumed(tmp_path / "a", saved)
    feed(moved, Source(2, seed=1), 2)
    again = checkpoint(moved, tmp_path / "b")
    assert_same(resumed(tmp_path / "b", again), moved)


@contextmanager
def largest_file(size):
    """Writing more than `size` bytes to a file fails, as on a full disk; the limit is this process's own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_message_and_the_last_checkpoint_stays_whole(tmp_path):
    source, target = Source(2), replay(capacity=4000)
    feed(target, source, 20)
    saved = checkpoint(target, tmp_path)
    copy = resumed(tmp_path, saved, capacity=4000)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    feed(target, source, 20)
    with (
        largest_file(len(files["000000.frames"]) + 100),
        pytest.raises(UserError, match="make room there and resume; the checkpoints written before are whole"),
    ):
        target.append_to(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert_same(resumed(tmp_path, saved, capacity=4000), copy)
    # after room was made the same replay goes on
    assert_same(resumed(tmp_path, checkpoint(target, tmp_path), capacity=4000), target)


def test_altered_short_and_missing_files_are_named(tmp_path):
    source, target = Source(2), replay()
    feed(target, source, 10)
    saved = checkpoint(target, tmp_path)
    path = tmp_path / saved["content"]["segments"][0]["file"]
    whole = path.read_bytes()
    for content, message in (
        (whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], "digest differs"),
        (whole[:-1], "lacks 1 of the"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path.name}.*{message}"):
            resumed(tmp_path, saved)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}.*cannot be read"):
        resumed(tmp_path, saved)


def test_a_replay_of_another_form_is_refused(tmp_path):
    source, target = Source(2), replay()
    feed(target, source, 10)
    saved = checkpoint(target, tmp_path)
    with pytest.raises(ValueError, match="capacity=48, this one capacity=50"):
        resumed(tmp_path, saved, capacity=50)


def test_n_step_and_stack_may_differ_when_it_is_restored(tmp_path):
    source, target = Source(2), replay()
    feed(target, source, 60)
    other, again = replay(n_step=1, stack=2, tail="short"), Source(2)
    feed(other, again, 60)
    saved = checkpoint(target, tmp_path)
    saved["draws"] = other.state()
    assert_same(resumed(tmp_path, saved, n_step=1, stack=2, tail="short"), other)


class LogMachine(RuleBasedStateMachine):
    """Any order of steps, checkpoints, kills in the middle of an append, resumes and clean-ups."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.kept = []  # checkpoints in place: what they hold, and the frames that belong to it

    @initialize(capacity=st.sampled_from([48, 400]))  # files of 3 and of 25 records
    def begin(self, capacity):
        self.capacity = capacity
        self.source, self.target = Source(2), replay(capacity=capacity)
        feed(self.target, self.source, 1)
        self.save()

    @rule(ticks=st.integers(1, 12))
    def play(self, ticks):
        feed(self.target, self.source, ticks)

    @rule()
    def save(self):
        saved = checkpoint(self.target, self.folder)
        self.kept = [*self.kept[-2:], (saved, live_frames(self.target))]

    @rule(keep=st.floats(0, 1))
    def killed_while_appending(self, keep):
        before = {path: path.stat().st_size for path in self.folder.iterdir()}
        self.target.append_to(self.folder)
        grown = [path for path in sorted(self.folder.iterdir()) if path.stat().st_size > before.get(path, 0)]
        for path in grown[-1:]:
            size = before.get(path, 0)
            os.truncate(path, size + int(keep * (path.stat().st_size - size)))
        self.resume(-1)

    @rule(which=st.integers(0, 2))
    def resume(self, which):
        saved, frames = self.kept[which % len(self.kept) if which >= 0 else -1]
        self.target = resumed(self.folder, saved, capacity=self.capacity)
        assert live_frames(self.target) == frames

    @rule()
    def clean(self):
        self.target.drop_unreferenced(self.folder, [saved["content"] for saved, _ in self.kept])

    @invariant()
    def every_checkpoint_in_place_can_be_resumed_from(self):
        for saved, frames in self.kept:
            assert live_frames(resumed(self.folder, saved, capacity=self.capacity)) == frames

    def teardown(self):
        shutil.rmtree(self.folder)


def live_frames(target):
    ring = target._ring
    return [
        ring.frames[e, [t % ring.length for t in range(ring.oldest[e], ring.count[e])]].tobytes() for e in range(ring.n)
    ]


def test_no_order_of_events_harms_a_checkpoint(small_segments, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the system does not fail here
    run_state_machine_as_test(LogMachine, settings=settings(max_examples=30, stateful_step_count=20, deadline=None))
