"""Shared behaviour: one Callback a file, each useful on a stranger's LightningModule."""

from plasticity_lightning.callbacks.astrocyte_feedback import AstrocyteFeedback
from plasticity_lightning.callbacks.liquid_monitor import LiquidMonitor
from plasticity_lightning.callbacks.one_shot_pruning import OneShotPruning
from plasticity_lightning.callbacks.prune_regrow import PruneRegrowScheduler

__all__ = ["AstrocyteFeedback", "LiquidMonitor", "OneShotPruning", "PruneRegrowScheduler"]
