"""Networks that the recipes train: plain torch modules, no Lightning."""

from plasticity_lightning.networks.mlp import MLP
from plasticity_lightning.networks.small import SmallCNN

__all__ = ["MLP", "SmallCNN"]
