"""A stranger's module and trainer for the tests of interventions."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from plasticity_lightning.runtime import ResumableDataLoader, RNGState

__all__ = ["Regression", "data", "fit", "weights"]


class Regression(LightningModule):
    """Two hidden layers with dropout, Adam; knows nothing of this package."""

    def __init__(self, optimizer="adam", seed=0, batch_norm=False):
        super().__init__()
        torch.manual_seed(seed)
        norm = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
        self.body = nn.Sequential(nn.Linear(3, 8), norm, nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 6), nn.ReLU())
        self.head = nn.Linear(6, 1)
        self.optimizer = optimizer

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = (self(x) - y).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), 1e-2)
        return torch.optim.SGD(self.parameters(), 1e-2)


def data(batches=8, batch_size=4):
    x = torch.randn(batches * batch_size, 3, generator=torch.Generator().manual_seed(5))
    pairs = torch.utils.data.TensorDataset(x, x.sin().sum(1, keepdim=True))
    return ResumableDataLoader(pairs, batch_size=batch_size, shuffle=True, seed=3)


def fit(module, callbacks, steps=8, root=None, ckpt=None, save=None, **kwargs):
    """Train for `steps` optimiser steps; with `save`, leave a checkpoint in `root` after that many batches."""
    extra = [RNGState()]
    if save is not None:
        extra.append(ModelCheckpoint(root, filename="{step}", every_n_train_steps=save, save_top_k=-1))
    settings = {
        "max_steps": steps,
        "max_epochs": -1,
        "logger": False,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": save is not None,
        "log_every_n_steps": 1,
        "default_root_dir": root,
        **kwargs,
    }
    torch.manual_seed(1)  # dropout
    trainer = Trainer(callbacks=[*callbacks, *extra], **settings)
    trainer.fit(module, data(), ckpt_path=ckpt)
    return trainer


def weights(module):
    """Copies of all tensors of the state dict."""
    return {n: t.clone() for n, t in module.state_dict().items() if isinstance(t, torch.Tensor)}
