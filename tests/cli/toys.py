"""A small module and data module for the tests of the command line."""

import os
import signal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from plasticity_lightning.runtime import ResumableDataLoader

__all__ = ["SignalAt", "ToyData", "ToyModule"]


class ToyModule(LightningModule):
    """Linear regression with dropout, so that the random state matters."""

    def __init__(self, width: int = 4, lr: float = 0.1, fail_at: int = -1) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if batch_idx == self.hparams["fail_at"]:
            raise ValueError("diverged in training")
        return (self.net(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean())

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", (self.net(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])


class ToyData(LightningDataModule):
    """32 samples in batches of 4."""

    def __init__(self, batch_size: int = 4, missing: bool = False) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.missing = missing

    def setup(self, stage: str) -> None:
        if self.missing:
            raise ValueError("no data under nowhere/")
        x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
        self.set = TensorDataset(x, x.sum(1, keepdim=True))

    def train_dataloader(self) -> ResumableDataLoader:
        return ResumableDataLoader(self.set, batch_size=self.batch_size, shuffle=True, seed=3)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.set, batch_size=16)

    test_dataloader = val_dataloader


class SignalAt(Callback):
    """Sends one process a signal after a batch of the whole run."""

    def __init__(self, batch: int, number: int = signal.SIGINT, rank: int = 0) -> None:
        self.batch = batch
        self.number = number
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


CALLS = []


def my_score(layer):
    """A user's criterion of sparse training; remembers the shapes that it saw."""
    CALLS.append((layer.weight.shape, layer.gradient.shape))
    return layer.gradient.abs() + layer.weight.abs()
