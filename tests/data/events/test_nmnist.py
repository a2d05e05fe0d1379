import pickle
import sys
import zipfile

import numpy as np
import pytest

from plasticity_lightning.data import DataFormatError, DataNotFoundError, NMNISTDataModule
from plasticity_lightning.data.events.nmnist_format import NMNISTRecordings, decode_events, encode_events
from plasticity_lightning.errors import UserError
from tests.data.real_formats import event_bytes

# number -> (class, events); the order of numbers is not the order of classes
TRAIN = {
    1: (5, [(1, 2, 1499, 1), (1, 2, 501, 1), (3, 0, 0, 0)]),
    2: (0, [(33, 33, 299_000, 1), (0, 0, 300_000, 0)]),
    10: (3, [(7, 7, 70_000, 0)]),
    3: (9, [(0, 33, 2**23 - 1, 1)]),
}
TEST = {1: (7, [(2, 1, 5_000, 0)])}


def content():
    for name, recordings in (("Train", TRAIN), ("Test", TEST)):
        for number, (label, events) in recordings.items():
            yield name, f"{name}/{label}/{number:05d}.bin", event_bytes(events)


def write_folders(folder):
    for _, path, data in content():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def write_zips(folder):
    for name, path, data in content():
        with zipfile.ZipFile(folder / f"{name}.zip", "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path, data)
            archive.writestr(f"__MACOSX/{path}", b"x")


def test_bytes_of_one_event_by_hand():
    # x = 12, y = 30, OFF then ON, t = 0x012345 us: third byte 0x01 or 0x81, then 0x23 0x45
    events = decode_events(bytes([12, 30, 0x01, 0x23, 0x45, 12, 30, 0x81, 0x23, 0x45]), "f")
    assert events["x"].tolist() == [12, 12]
    assert events["y"].tolist() == [30, 30]
    assert events["t"].tolist() == [0x12345] * 2
    assert events["p"].tolist() == [0, 1]


def test_encoding_is_the_inverse_of_tonics_reader():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 34, (2, 500))
    t, p = rng.integers(0, 2**23, 500), rng.integers(0, 2, 500)
    data = encode_events(x, y, t, p)
    assert data == event_bytes(list(zip(*(c.tolist() for c in (x, y, t, p)), strict=True)))
    decoded = decode_events(data, "f")
    for name, column in (("x", x), ("y", y), ("t", t), ("p", p)):
        assert np.array_equal(decoded[name], column)
    with pytest.raises(ValueError, match=r"t is in 8388608\.\.8388608"):
        encode_events(x[:1], y[:1], np.array([2**23]), p[:1])


@pytest.mark.parametrize("write", [write_folders, write_zips])
@pytest.mark.parametrize("sub", ["", "NMNIST"])
def test_batches_from_folders_and_zips(folder, write, sub):
    (folder / sub).mkdir(exist_ok=True)
    write(folder / sub)
    data = NMNISTDataModule(root=str(folder), batch_size=3, val_size=1, shuffle=False)
    assert data.labels("train").tolist() == [5, 0, 9]  # numbers 1, 2, 3
    assert data.labels("val").tolist() == [3]  # number 10
    (batch,) = data.train_dataloader()
    assert batch["label"].tolist() == [5, 0, 9]
    assert batch["index"].tolist() == [0, 1, 2]
    events = batch["events"]
    assert (events.n_steps, events.n_channels) == (300, 2312)
    assert len(events.offsets) == 3 * 300 + 1
    # sample 0: step 0 channel 3, step 1 channel 1225 (twice, once counted); sample 1: step 299 channel 2311, the
    # event at 300 ms is too late; sample 2: its only event is at 8.4 s
    assert events.channels.tolist() == [3, 1225, 2311]
    cells = np.flatnonzero(np.diff(events.offsets.numpy()))
    assert cells.tolist() == [0, 1, 300 + 299]
    (last,) = NMNISTDataModule(root=str(folder), val_size=1, duration_ms=400).test_dataloader()
    assert last["events"].channels.tolist() == [36]  # y = 1, x = 2
    assert last["events"].n_steps == 400


def test_a_zip_is_read_by_worker_processes(folder):
    write_zips(folder)
    data = NMNISTDataModule(root=str(folder), batch_size=2, val_size=1, shuffle=False, num_workers=2)
    assert [b["label"].tolist() for b in data.train_dataloader()] == [[5, 0], [9]]


def test_each_process_opens_the_zip_for_itself(folder, monkeypatch):
    # a forked worker inherits the open file and would share, and disturb, its parent's position in it
    write_zips(folder)
    recordings = NMNISTRecordings(folder / "Train.zip")
    recordings.events(0)
    parents = recordings._archive[1]
    monkeypatch.setattr("plasticity_lightning.data.events.nmnist_format.os.getpid", lambda: -1)
    recordings.events(1)
    assert recordings._archive[1] is not parents
    assert pickle.loads(pickle.dumps(recordings))._archive is None


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("Train/5/00001.bin", b"", "00001.bin: the recording is empty"),
        ("Train/5/00001.bin", b"123456", "6 bytes, not a multiple of 5"),
        ("Train/5/first.bin", b"12345", "must be its number"),
        ("Train/ten/00011.bin", b"12345", "must be its class"),
    ],
)
def test_damaged_recordings_are_named(folder, name, damage, fault):
    write_folders(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(damage)
    with pytest.raises(DataFormatError, match=fault):
        next(iter(NMNISTDataModule(root=str(folder), val_size=0).train_dataloader()))


def test_damaged_zips_and_empty_folders_are_named(folder):
    write_zips(folder)
    for damage, fault in ((b"", "Train.zip: the file is empty"), (b"PK", "Train.zip: not a zip file")):
        (folder / "Train.zip").write_bytes(damage)
        with pytest.raises(DataFormatError, match=fault):
            NMNISTDataModule(root=str(folder), val_size=0).setup()
    for name in ("Train", "Test"):
        (folder / name).mkdir()
    with pytest.raises(DataFormatError, match="holds no recording"):
        NMNISTDataModule(root=str(folder), val_size=0).setup()


def test_a_recording_that_expands_past_any_real_one_is_refused(folder):
    path = folder / "Train.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Train/3/00001.bin", bytes(5 << 20))
    with pytest.raises(DataFormatError, match=r"00001\.bin expands to 5242880 bytes; a recording has at most 4194304"):
        NMNISTRecordings(path).events(0)


def test_missing_data_and_missing_tonic_say_what_to_do(folder, monkeypatch):
    with pytest.raises(DataNotFoundError, match=r"Train\.zip and Test\.zip"):
        NMNISTDataModule(root=str(folder)).setup()
    for name in [n for n in sys.modules if n.partition(".")[0] == "tonic"]:
        monkeypatch.delitem(sys.modules, name)
    finder = type("Absent", (), {"find_spec": staticmethod(refuse_tonic)})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    with pytest.raises(UserError, match=r"pip install 'plasticity-lightning\[events\]'"):
        NMNISTDataModule(root=str(folder)).setup()


def refuse_tonic(name, path=None, target=None):
    if name.partition(".")[0] == "tonic":
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_arguments_are_checked():
    for arguments, fault in (({"duration_ms": 0}, "duration_ms=0"), ({"limit_val": -1}, "limit_val=-1")):
        with pytest.raises(UserError, match=fault):
            NMNISTDataModule(**arguments)
