"""The papers: one LightningModule a file."""

from plasticity_lightning.modules.nalsm import NALSM
from plasticity_lightning.modules.sparse_classifier import SparseClassifier

__all__ = ["NALSM", "SparseClassifier"]
