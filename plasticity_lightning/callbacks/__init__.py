"""Shared behaviour: one Callback a file, each useful on a stranger's LightningModule."""

from plasticity_lightning.callbacks.astrocyte_feedback import AstrocyteFeedback
from plasticity_lightning.callbacks.interventions import L2Init, ReDo, Reset, ShrinkAndPerturb
from plasticity_lightning.callbacks.liquid_monitor import LiquidMonitor
from plasticity_lightning.callbacks.plasticity_monitor import PlasticityMonitor

__all__ = [
    "AstrocyteFeedback",
    "L2Init",
    "LiquidMonitor",
    "PlasticityMonitor",
    "ReDo",
    "Reset",
    "ShrinkAndPerturb",
]
