"""LightningModules of the papers: one paper a file."""

from plasticity_lightning.modules.continual_classifier import ContinualClassifier
from plasticity_lightning.modules.continual_regressor import ContinualRegressor
from plasticity_lightning.modules.image_classifier import ImageClassifier
from plasticity_lightning.modules.nalsm import NALSM
from plasticity_lightning.modules.prediction_object import PredictionObject
from plasticity_lightning.modules.random_feature_classifier import RandomFeatureClassifier

__all__ = [
    "NALSM",
    "ContinualClassifier",
    "ContinualRegressor",
    "ImageClassifier",
    "PredictionObject",
    "RandomFeatureClassifier",
]
