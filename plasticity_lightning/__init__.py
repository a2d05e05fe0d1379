"""Plasticity in neural networks on Lightning: papers as LightningModules, their mechanisms as Callbacks."""

from plasticity_lightning._version import __version__

__all__ = ["__version__"]
