"""Figures for TensorBoard and the docs: arrays in, matplotlib figures out."""

from plasticity_lightning.viz.plasticity import layer_heat_map
from plasticity_lightning.viz.prediction import (
    adaptation_curves,
    aligned_readouts,
    amplitude_against_probability,
    probability_over_time,
    subspace_angles,
    trial_raster,
)
from plasticity_lightning.viz.pruning import pruning_plasticity
from plasticity_lightning.viz.spiking import (
    accuracy_curve,
    liquid_3d,
    modulation_trace,
    raster_plot,
    rate_histogram,
    weight_histograms,
)

__all__ = [
    "accuracy_curve",
    "adaptation_curves",
    "aligned_readouts",
    "amplitude_against_probability",
    "layer_heat_map",
    "liquid_3d",
    "modulation_trace",
    "probability_over_time",
    "pruning_plasticity",
    "raster_plot",
    "rate_histogram",
    "subspace_angles",
    "trial_raster",
    "weight_histograms",
]
