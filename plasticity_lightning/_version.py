"""The package version, read by the build and by `plasticity --version` without importing anything else."""

__version__ = "0.1.0"
