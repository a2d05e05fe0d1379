"""LightningModules of the papers: one paper a file."""

from plasticity_lightning.modules.continual_classifier import ContinualClassifier
from plasticity_lightning.modules.continual_regressor import ContinualRegressor
from plasticity_lightning.modules.discrete_control import DiscreteControl
from plasticity_lightning.modules.force_generator import ForceGenerator
from plasticity_lightning.modules.image_classifier import ImageClassifier
from plasticity_lightning.modules.nalsm import NALSM
from plasticity_lightning.modules.prediction_object import PredictionObject
from plasticity_lightning.modules.random_feature_classifier import RandomFeatureClassifier
from plasticity_lightning.modules.visual_control import VisualControl

__all__ = [
    "NALSM",
    "ContinualClassifier",
    "ContinualRegressor",
    "DiscreteControl",
    "ForceGenerator",
    "ImageClassifier",
    "PredictionObject",
    "RandomFeatureClassifier",
    "VisualControl",
]
