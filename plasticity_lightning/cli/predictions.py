"""What `plasticity predict` leaves: a file with the returns of `predict_step`, batch by batch, in the run's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from plasticity_lightning.runtime.atomic_file import atomic_file

__all__ = ["PredictionFile"]


class PredictionFile(BasePredictionWriter):
    """Writes `predictions.pt`, or `predictions_<rank>.pt` of several processes, for `torch.load`.

    Args:
        folder: created where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("epoch")
        self.folder = folder

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write the file, complete or not at all."""
        path = self.folder / ("predictions.pt" if trainer.world_size == 1 else f"predictions_{trainer.global_rank}.pt")
        with atomic_file(path) as file:
            torch.save(list(predictions), file)
        print(f"predictions: {path}")
