"""The papers: one LightningModule a file."""

from plasticity_lightning.modules.nalsm import NALSM
from plasticity_lightning.modules.random_feature_classifier import RandomFeatureClassifier

__all__ = ["NALSM", "RandomFeatureClassifier"]
