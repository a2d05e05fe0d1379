"""Arrays by key: history names them, files are whole or absent."""

import numpy as np
import pytest

from plasticity_lightning.runtime.trial_store import TrialStore, next_key


def test_a_key_depends_on_every_part_of_the_history_and_on_their_borders():
    start = next_key(b"", b"network")
    assert next_key(start, b"ab", b"c") != next_key(start, b"a", b"bc")
    assert next_key(start, b"a") != next_key(next_key(b"", b"other"), b"a")
    assert next_key(start, b"a") == next_key(start, b"a")
    assert len(start) == 16


def test_arrays_come_back_as_they_were(tmp_path):
    store, key = TrialStore(tmp_path / "new"), next_key(b"", b"x")
    assert store.get(key) is None
    arrays = {"trace": np.arange(6, dtype=np.float16).reshape(2, 3), "state": np.array([0.1])}
    store.put(key, arrays)
    found = store.get(key)
    assert found is not None
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
        name: (value.dtype, value.tolist()) for name, value in arrays.items()
    }
    assert [p for p in tmp_path.rglob("*") if p.name.startswith(".")] == []


def test_a_damaged_file_is_named(tmp_path):
    store, key = TrialStore(tmp_path), next_key(b"", b"x")
    store.put(key, {"a": np.zeros(3)})
    store.path(key).write_bytes(store.path(key).read_bytes()[:20])
    with pytest.raises(ValueError, match="delete it"):
        store.get(key)


def test_what_a_killed_process_has_left_goes(tmp_path):
    store = TrialStore(tmp_path)
    store.put(b"\x0a" * 16, {"x": np.zeros(3)})
    left = store.path(b"\x0a" * 16).with_name(f".{'0a' * 16}.npz.01234abc.tmp")
    left.write_bytes(b"half a trial")
    assert set(TrialStore(tmp_path).get(b"\x0a" * 16)) == {"x"}
    assert not left.exists()
