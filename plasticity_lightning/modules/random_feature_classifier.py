"""The control of every liquid: as many random features of the image, without spikes, dynamics or plasticity, and the same readout.

Feature i is ReLU of a random sparse signed sum of pixels (`readouts.random_features`). The features pass through the same normalisation, solver
and selection as a liquid's spike counts. A liquid that does not beat this has not shown that its dynamics help.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch
from torch import Tensor

from plasticity_lightning.modules.feature_readout import FeatureReadout
from plasticity_lightning.readouts import random_features, random_projection
from plasticity_lightning.runtime.hyperparameters import save_plain_hyperparameters

__all__ = ["RandomFeatureClassifier"]


class RandomFeatureClassifier(FeatureReadout):
    """Linear readout of random sparse ReLU features.

    Batches are dicts with `image` [B, ...], `label` and `index` int64 [B]. The readout sees each feature's share of its image's total, so that the
    brightness of an image does not matter: as for a liquid, whose input is scaled by the image's ink.

    Args:
        n_inputs: values of an image.
        n_classes: number of classes, at least 2.
        n_features: number of features; for a control, the number of neurons of the liquid.
        fan_in: pixels per feature, in [1, n_inputs].
        readout: "lbfgs" and "adadelta" minimise NALSM's loss, "ridge" is a closed form.
        readout_arguments: passed on to the readout solver, e.g. `{epochs: 500}`.
        cache_dir: where features are kept; None is `features` inside the run's directory.
        seed: of the features.

    Raises:
        ValueError: if an argument is outside its range.
    """

    projection: Tensor

    def __init__(
        self,
        n_inputs: int = 784,
        n_classes: int = 10,
        n_features: int = 1000,
        fan_in: int = 32,
        readout: Literal["lbfgs", "adadelta", "ridge"] = "lbfgs",
        readout_arguments: dict[str, Any] | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(n_classes, n_features, readout, readout_arguments, "train", cache_dir, "float32")
        save_plain_hyperparameters(self)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("projection", random_projection(n_inputs, n_features, generator, fan_in))

    def make_features(self, batch: dict[str, Any], split: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Features [B, n_features] of `batch["image"]`."""
        return random_features(batch["image"].flatten(1).float(), self.projection), {}

    def fingerprint(self) -> str:
        """Hash of the projection."""
        return hashlib.sha256(self.projection.cpu().numpy().tobytes()).hexdigest()[:16]

    def advice_if_silent(self) -> str:
        """Only images without ink, or all negative, give no feature."""
        return "the images hold no positive value"
