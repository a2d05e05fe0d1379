"""Linear readouts: losses, closed forms and solvers on fixed features."""

from plasticity_lightning.readouts.adadelta import AdadeltaReadout
from plasticity_lightning.readouts.features import batch_max_scale, feature_scale, normalise_counts, silent_items
from plasticity_lightning.readouts.lbfgs import LBFGSReadout
from plasticity_lightning.readouts.loss import soft_cross_entropy, soft_targets
from plasticity_lightning.readouts.random_features import random_features, random_projection
from plasticity_lightning.readouts.ridge import RidgeReadout
from plasticity_lightning.readouts.solver import ReadoutSolver

READOUTS: dict[str, type[ReadoutSolver]] = {"lbfgs": LBFGSReadout, "adadelta": AdadeltaReadout, "ridge": RidgeReadout}

__all__ = [
    "READOUTS",
    "AdadeltaReadout",
    "LBFGSReadout",
    "ReadoutSolver",
    "RidgeReadout",
    "batch_max_scale",
    "feature_scale",
    "normalise_counts",
    "random_features",
    "random_projection",
    "silent_items",
    "soft_cross_entropy",
    "soft_targets",
]
