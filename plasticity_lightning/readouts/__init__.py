"""Linear readouts: losses, closed forms and solvers on fixed features, and local rules that learn trial by trial."""

from plasticity_lightning.readouts.adadelta import AdadeltaReadout
from plasticity_lightning.readouts.features import batch_max_scale, feature_scale, normalise_counts, silent_items
from plasticity_lightning.readouts.homeostasis import Homeostasis
from plasticity_lightning.readouts.lbfgs import LBFGSReadout
from plasticity_lightning.readouts.learners import LEARNERS, learner_named
from plasticity_lightning.readouts.loss import soft_cross_entropy, soft_targets
from plasticity_lightning.readouts.modulation import Modulation, attention_gate, modulated_error
from plasticity_lightning.readouts.random_features import random_features, random_projection
from plasticity_lightning.readouts.ridge import RidgeReadout
from plasticity_lightning.readouts.solver import ReadoutSolver

READOUTS: dict[str, type[ReadoutSolver]] = {"lbfgs": LBFGSReadout, "adadelta": AdadeltaReadout, "ridge": RidgeReadout}

__all__ = [
    "LEARNERS",
    "READOUTS",
    "AdadeltaReadout",
    "Homeostasis",
    "LBFGSReadout",
    "Modulation",
    "ReadoutSolver",
    "RidgeReadout",
    "attention_gate",
    "batch_max_scale",
    "feature_scale",
    "learner_named",
    "modulated_error",
    "normalise_counts",
    "random_features",
    "random_projection",
    "silent_items",
    "soft_cross_entropy",
    "soft_targets",
]
