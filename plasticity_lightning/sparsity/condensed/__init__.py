"""Condensed layers: linear layers that store and multiply only their living weights; constant fan-in wastes nothing."""

from plasticity_lightning.sparsity.condensed.contract import Backend
from plasticity_lightning.sparsity.condensed.function import condensed_linear
from plasticity_lightning.sparsity.condensed.layers import CondensedLinear
from plasticity_lightning.sparsity.condensed.layout import Condensed, condense, expand, padding_share

__all__ = ["Backend", "Condensed", "CondensedLinear", "condense", "condensed_linear", "expand", "padding_share"]
