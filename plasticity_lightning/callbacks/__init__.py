"""Shared behaviour: one Callback a file, each useful on a stranger's LightningModule."""

from plasticity_lightning.callbacks.control import AdaptiveReplayRatio, EvaluationVideo, StopAfter
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
from plasticity_lightning.callbacks.liquid.astrocyte_feedback import AstrocyteFeedback
from plasticity_lightning.callbacks.liquid.liquid_monitor import LiquidMonitor
from plasticity_lightning.callbacks.monitoring.plasticity_monitor import PlasticityMonitor
from plasticity_lightning.callbacks.prediction.error_modulation import ErrorModulation
from plasticity_lightning.callbacks.prediction.prediction_monitor import PredictionMonitor
from plasticity_lightning.callbacks.prediction.selectivity_monitor import SelectivityMonitor
from plasticity_lightning.callbacks.prediction.subspace_monitor import SubspaceMonitor
from plasticity_lightning.callbacks.sparse_training.one_shot_pruning import OneShotPruning
from plasticity_lightning.callbacks.sparse_training.prune_regrow import PruneRegrowScheduler

__all__ = [
    "AdaptiveReplayRatio",
    "AstrocyteFeedback",
    "ContinualBackprop",
    "ErrorModulation",
    "EvaluationVideo",
    "L2Init",
    "LiquidMonitor",
    "ModuleTransform",
    "OneShotPruning",
    "Parseval",
    "PlasticityInjection",
    "PlasticityMonitor",
    "PredictionMonitor",
    "PruneRegrowScheduler",
    "ReDo",
    "Reset",
    "SelectivityMonitor",
    "ShrinkAndPerturb",
    "SoftReset",
    "StopAfter",
    "SubspaceMonitor",
]
