"""Features that are expensive to make, kept chunk by chunk on disk so that no finished chunk is ever lost.

Each chunk is one .npz file written under a temporary name and then renamed; a directory belongs to one fingerprint (network, encoding, seed), so
features of another network are never mistaken for these. In memory a split is one array addressed by the samples' indices.
"""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.atomic_file import atomic_file, clear_stale

__all__ = ["DamagedFeaturesError", "FeatureStore"]

_MEASURE = "measure_"  # before a measure's name in a chunk


class DamagedFeaturesError(UserError, ValueError):
    """A file among the kept features is damaged or of another network; the message names it."""


class FeatureStore:
    """Rows of features, spike counts by default, by split and sample index.

    Args:
        directory: where chunks are kept; created when the first one is written. None keeps them in memory only.
        n_features: length of a row.
        dtype: numpy type of a row's values; int16 holds every spike count of half a minute.
        measures: names of numbers that are kept with each row, such as an item's firing rate, so that a run that finds the row need not make it
            again to tell them.

    Raises:
        ValueError: if n_features < 1.
        DamagedFeaturesError: if a file in the directory is not a chunk of such rows.
    """

    def __init__(
        self, directory: Path | None, n_features: int, dtype: str = "int16", measures: Sequence[str] = ()
    ) -> None:
        if n_features < 1:
            raise ValueError(f"n_features={n_features} must be at least 1")
        self.directory, self.n_features, self.dtype = directory, n_features, np.dtype(dtype)
        self.measures = tuple(measures)
        self._splits: dict[str, _Rows] = {}
        if directory is not None:
            clear_stale(directory)
        for path in sorted(directory.glob("*.npz")) if directory is not None and directory.is_dir() else ():
            try:
                with np.load(path) as chunk:
                    if chunk["counts"].dtype != self.dtype:
                        raise ValueError(f"holds {chunk['counts'].dtype}")
                    unknown = np.full(len(chunk["index"]), np.nan)  # in chunks of before there were measures
                    measured = [chunk.get(_MEASURE + n, unknown) for n in self.measures]
                    self._rows(path.name.split("-")[0]).put(
                        chunk["index"], chunk["label"], chunk["counts"], np.array(measured).reshape(-1, len(unknown))
                    )
            except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
                raise DamagedFeaturesError(
                    f"{path} is no readable chunk of {n_features} features a row ({self.dtype}): delete it ({error})"
                ) from error

    def size(self, split: str) -> int:
        """Number of rows of a split."""
        return int(self._rows(split).known.sum())

    def missing(self, split: str, index: Tensor) -> Tensor:
        """Bool, shaped as `index` int64 [M]: which samples have no row yet."""
        known = self._rows(split).known
        at = index.numpy()
        inside = at < len(known)
        return (
            torch.from_numpy(~(inside & known[np.where(inside, at, 0)]))
            if len(known)
            else torch.ones(len(at), dtype=torch.bool)
        )

    def add(
        self, split: str, index: Tensor, label: Tensor, counts: Tensor, measured: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep rows `counts` [M, n_features] of samples `index` int64 [M] with `label` int64 [M]; known samples are skipped.

        `measured` gives the rows' measures, float [M] each by name; one that is not given is NaN.
        """
        new = self.missing(split, index)
        if not bool(new.any()):
            return
        arrays = index[new].numpy(), label[new].numpy(), counts[new].cpu().numpy().astype(self.dtype)
        numbers = np.full((len(self.measures), len(arrays[0])), np.nan)
        for row, name in zip(numbers, self.measures, strict=True):
            if measured is not None and name in measured:
                row[:] = measured[name][new].double().cpu().numpy()
        if self.directory is not None:
            named: dict[str, Any] = {_MEASURE + n: row for n, row in zip(self.measures, numbers, strict=True)}
            with atomic_file(self.directory / f"{split}-{uuid.uuid4().hex}.npz") as file:
                np.savez(file, index=arrays[0], label=arrays[1], counts=arrays[2], **named)
        self._rows(split).put(*arrays, numbers)

    def counts(self, split: str, index: Tensor) -> Tensor:
        """Rows [M, n_features] of samples `index`.

        Raises:
            KeyError: if one of them is missing.
        """
        self._require(split, index)
        return torch.from_numpy(self._rows(split).counts[index.numpy()])

    def measured(self, split: str, index: Tensor) -> dict[str, Tensor]:
        """Measures of samples `index`, float64 [M] each by name; NaN where one was not given.

        Raises:
            KeyError: if one of the samples is missing.
        """
        self._require(split, index)
        values = self._rows(split).measured[:, index.numpy()]
        return {name: torch.from_numpy(row) for name, row in zip(self.measures, values, strict=True)}

    def rows(self, split: str) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """(index int64 [M], label int64 [M], counts [M, n_features], measures) of a split, by ascending index."""
        rows = self._rows(split)
        index = np.flatnonzero(rows.known)
        at = torch.from_numpy(index)
        return at, torch.from_numpy(rows.label[index]), torch.from_numpy(rows.counts[index]), self.measured(split, at)

    def _require(self, split: str, index: Tensor) -> None:
        missing = self.missing(split, index)
        if bool(missing.any()):
            raise KeyError(f"{int(missing.sum())} of {len(index)} samples of split {split!r} have no features yet")

    def _rows(self, split: str) -> _Rows:
        return self._splits.setdefault(split, _Rows(self.n_features, self.dtype, len(self.measures)))


class _Rows:
    """One split: arrays addressed by sample index, grown as larger indices come."""

    def __init__(self, n_features: int, dtype: np.dtype, n_measures: int) -> None:
        self.known = np.zeros(0, dtype=bool)
        self.label = np.zeros(0, dtype=np.int64)
        self.counts = np.zeros((0, n_features), dtype=dtype)
        self.measured = np.zeros((n_measures, 0))

    def put(self, index: np.ndarray, label: np.ndarray, counts: np.ndarray, measured: np.ndarray) -> None:
        needed = int(index.max()) + 1
        if needed > len(self.known):
            grow = max(needed, len(self.known) * 5 // 4) - len(self.known)
            self.known = np.concatenate([self.known, np.zeros(grow, dtype=bool)])
            self.label = np.concatenate([self.label, np.zeros(grow, dtype=np.int64)])
            self.counts = np.concatenate([self.counts, np.zeros((grow, self.counts.shape[1]), dtype=self.counts.dtype)])
            self.measured = np.concatenate([self.measured, np.full((len(self.measured), grow), np.nan)], 1)
        self.known[index], self.label[index], self.counts[index] = True, label, counts
        self.measured[:, index] = measured
