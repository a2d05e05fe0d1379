"""Chunks of features are kept whole or not at all, and found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plasticity_lightning.runtime import FeatureStore


def rows(index: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    i = torch.tensor(index)
    return i, i % 10, torch.stack([i, i * 2, i * 3], 1)


def test_rows_come_back_by_index_whatever_the_order_of_chunks(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "f", 3)
    store.add("train", *rows([4, 1]))
    store.add("train", *rows([1, 0, 7]))
    for again in (store, FeatureStore(tmp_path / "f", 3)):
        index, label, counts, _ = again.rows("train")
        assert index.tolist() == [0, 1, 4, 7]
        assert label.tolist() == [0, 1, 4, 7]
        assert counts.tolist() == [[0, 0, 0], [1, 2, 3], [4, 8, 12], [7, 14, 21]]
        assert again.missing("train", torch.tensor([0, 2, 7, 100])).tolist() == [False, True, False, True]
        assert again.counts("train", torch.tensor([7, 0])).tolist() == [[7, 14, 21], [0, 0, 0]]
        assert again.size("train") == 4
        assert again.size("val") == 0


def test_a_chunk_interrupted_while_writing_is_not_seen(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 3)
    store.add("val", *rows([1]))
    (tmp_path / ".val-half.npz.tmp").write_bytes(b"half a file")
    assert FeatureStore(tmp_path, 3).rows("val")[0].tolist() == [1]


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-x.npz").write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=r"train-x\.npz is no readable chunk"):
        FeatureStore(tmp_path, 3)
    np.savez(tmp_path / "train-x.npz", index=np.array([0]), label=np.array([0]), counts=np.zeros((1, 5)))
    with pytest.raises(ValueError, match="no readable chunk of 3 features"):
        FeatureStore(tmp_path, 3)


def test_float_rows_are_kept_exactly_and_not_mistaken_for_counts(tmp_path: Path) -> None:
    values = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    FeatureStore(tmp_path, 3, "float32").add("train", torch.tensor([0, 1]), torch.tensor([5, 6]), values)
    assert torch.equal(FeatureStore(tmp_path, 3, "float32").rows("train")[2], values)
    with pytest.raises(
        ValueError, match=r"no readable chunk of 3 features a row \(int16\): delete it \(holds float32\)"
    ):
        FeatureStore(tmp_path, 3)


def test_missing_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="1 of 1 samples"):
        FeatureStore(None, 3).counts("test", torch.tensor([5]))


def test_measures_are_kept_with_their_rows_and_unknown_ones_are_nan(tmp_path: Path) -> None:
    FeatureStore(tmp_path, 3).add("train", *rows([0]))  # a chunk of before there were measures
    store = FeatureStore(tmp_path, 3, measures=("rate", "drive"))
    store.add("train", *rows([2, 1]), {"rate": torch.tensor([0.25, 0.5])})
    for again in (store, FeatureStore(tmp_path, 3, measures=("rate", "drive"))):
        measured = again.measured("train", torch.tensor([1, 2, 0]))
        assert measured["rate"].tolist()[:2] == [0.5, 0.25]
        assert bool(measured["rate"][2].isnan())
        assert bool(measured["drive"].isnan().all())
    with pytest.raises(KeyError, match="1 of 1 samples"):
        store.measured("val", torch.tensor([0]))
