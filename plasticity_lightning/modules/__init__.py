"""LightningModules of the papers: one paper a file."""

from plasticity_lightning.modules.continual_classifier import ContinualClassifier
from plasticity_lightning.modules.continual_regressor import ContinualRegressor
from plasticity_lightning.modules.nalsm import NALSM
from plasticity_lightning.modules.random_feature_classifier import RandomFeatureClassifier
from plasticity_lightning.modules.sparse_classifier import SparseClassifier

__all__ = ["NALSM", "ContinualClassifier", "ContinualRegressor", "RandomFeatureClassifier", "SparseClassifier"]
