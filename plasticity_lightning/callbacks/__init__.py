"""Shared behaviour: one Callback a file, each useful on a stranger's LightningModule."""

from plasticity_lightning.callbacks.astrocyte_feedback import AstrocyteFeedback
from plasticity_lightning.callbacks.interventions import (
    ContinualBackprop,
    L2Init,
    ModuleTransform,
    Parseval,
    PlasticityInjection,
    ReDo,
    Reset,
    ShrinkAndPerturb,
    SoftReset,
)
from plasticity_lightning.callbacks.liquid_monitor import LiquidMonitor
from plasticity_lightning.callbacks.plasticity_monitor import PlasticityMonitor

__all__ = [
    "AstrocyteFeedback",
    "ContinualBackprop",
    "L2Init",
    "LiquidMonitor",
    "ModuleTransform",
    "Parseval",
    "PlasticityInjection",
    "PlasticityMonitor",
    "ReDo",
    "Reset",
    "ShrinkAndPerturb",
    "SoftReset",
]
