"""A periodic signal in pieces: first the network settles, then it is taught, then it runs free.

The signal's phase goes on from piece to piece.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.runtime.loaders import ResumableDataLoader

__all__ = ["PeriodicSignalDataModule"]


class PeriodicSignalDataModule(LightningDataModule):
    """Batches are dicts.

    `target` float64 [T, 1], a sine of amplitude 1 at every time step, and `learn`, whether it is taught.

    Args:
        frequency_hz: positive.
        dt_ms: time step, positive; as the network's.
        piece_ms: length of a piece, a whole number of time steps.
        settle_ms: before learning starts, at least 0.
        learn_ms: of teaching, at least one piece.
        free_ms: of the test and of prediction, at least one piece.
        validate_ms: of a validation, which runs free, too, at least one piece.

    Raises:
        DataArgumentError: if an argument is out of range.
    """

    in_memory: ClassVar[bool] = True  # made as they are asked for: worker processes would only cost

    def __init__(
        self,
        frequency_hz: float = 5.0,
        dt_ms: float = 0.04,
        piece_ms: float = 100.0,
        settle_ms: float = 1000.0,
        learn_ms: float = 4000.0,
        free_ms: float = 3000.0,
        validate_ms: float = 1000.0,
    ) -> None:
        super().__init__()
        for name, value in (("frequency_hz", frequency_hz), ("dt_ms", dt_ms), ("piece_ms", piece_ms)):
            if not value > 0:
                raise DataArgumentError(f"{name}={value}: must be positive.")
        for name, value, least in (
            ("settle_ms", settle_ms, 0),
            ("learn_ms", learn_ms, piece_ms),
            ("free_ms", free_ms, piece_ms),
            ("validate_ms", validate_ms, piece_ms),
        ):
            if not value >= least:
                raise DataArgumentError(f"{name}={value}: must be at least {least}.")
        self.steps = round(piece_ms / dt_ms)
        if abs(self.steps * dt_ms - piece_ms) > 1e-6 * piece_ms:
            raise DataArgumentError(f"piece_ms={piece_ms}: must be a whole number of time steps of {dt_ms} ms.")
        self.frequency_hz, self.dt_ms = frequency_hz, dt_ms
        self.settle, self.learn, self.free, self.validation = (
            round(ms / piece_ms) for ms in (settle_ms, learn_ms, free_ms, validate_ms)
        )

    def piece(self, i: int) -> dict[str, Any]:
        """Piece i, from 0; those behind the teaching are for the test."""
        step = torch.arange(i * self.steps, (i + 1) * self.steps, dtype=torch.float64)
        target: Tensor = torch.sin(2 * torch.pi * self.frequency_hz * step * self.dt_ms / 1000)
        return {"target": target[:, None], "learn": self.settle <= i < self.settle + self.learn}

    def train_dataloader(self) -> DataLoader[Any]:
        """Settling and teaching, in order."""
        return ResumableDataLoader(_Pieces(self, 0, self.settle + self.learn), batch_size=1, collate_fn=_first)

    def val_dataloader(self) -> DataLoader[Any]:
        """The first pieces of the test."""
        return DataLoader(_Pieces(self, self.settle + self.learn, self.validation), batch_size=1, collate_fn=_first)

    def test_dataloader(self) -> DataLoader[Any]:
        """What comes next, for the network to continue by itself."""
        return DataLoader(_Pieces(self, self.settle + self.learn, self.free), batch_size=1, collate_fn=_first)

    predict_dataloader = test_dataloader


class _Pieces(Dataset[Any]):
    def __init__(self, signal: PeriodicSignalDataModule, first: int, count: int) -> None:
        self.signal, self.first, self.count = signal, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.signal.piece(self.first + i)


def _first(batch: list[Any]) -> Any:
    return batch[0]
