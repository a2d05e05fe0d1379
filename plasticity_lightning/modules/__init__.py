"""The papers: one LightningModule a file."""

from plasticity_lightning.modules.nalsm import NALSM

__all__ = ["NALSM"]
