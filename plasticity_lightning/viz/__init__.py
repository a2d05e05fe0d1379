"""Figures for TensorBoard and the docs: arrays in, matplotlib figures out."""

from plasticity_lightning.viz.plasticity import layer_heat_map
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
    "layer_heat_map",
    "liquid_3d",
    "modulation_trace",
    "raster_plot",
    "rate_histogram",
    "weight_histograms",
]
