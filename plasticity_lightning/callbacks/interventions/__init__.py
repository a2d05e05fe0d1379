"""Interventions against the loss of plasticity: one Callback a file, triggered by a schedule or by a measure."""

from plasticity_lightning.callbacks.interventions.l2_init import L2Init
from plasticity_lightning.callbacks.interventions.redo import ReDo
from plasticity_lightning.callbacks.interventions.reset import Reset
from plasticity_lightning.callbacks.interventions.shrink_and_perturb import ShrinkAndPerturb

__all__ = ["L2Init", "ReDo", "Reset", "ShrinkAndPerturb"]
