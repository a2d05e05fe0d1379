"""Interventions against the loss of plasticity: one Callback a file, triggered by a schedule or by a measure."""

from plasticity_lightning.callbacks.interventions.continual_backprop import ContinualBackprop
from plasticity_lightning.callbacks.interventions.l2_init import L2Init
from plasticity_lightning.callbacks.interventions.module_transform import ModuleTransform
from plasticity_lightning.callbacks.interventions.parseval import Parseval
from plasticity_lightning.callbacks.interventions.plasticity_injection import PlasticityInjection
from plasticity_lightning.callbacks.interventions.redo import ReDo
from plasticity_lightning.callbacks.interventions.reset import Reset
from plasticity_lightning.callbacks.interventions.shrink_and_perturb import ShrinkAndPerturb
from plasticity_lightning.callbacks.interventions.soft_reset import SoftReset

__all__ = [
    "ContinualBackprop",
    "L2Init",
    "ModuleTransform",
    "Parseval",
    "PlasticityInjection",
    "ReDo",
    "Reset",
    "ShrinkAndPerturb",
    "SoftReset",
]
