"""How plastic is a network? Pure functions of tensors."""

from plasticity_lightning.measures.spiking import (
    branching_factor,
    firing_rate,
    kernel_rank,
    mean_branching_factor,
    silent_fraction,
    synchrony,
)

__all__ = ["branching_factor", "firing_rate", "kernel_rank", "mean_branching_factor", "silent_fraction", "synchrony"]
