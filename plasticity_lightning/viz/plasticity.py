"""Figures of a network's plasticity over a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["layer_heat_map"]


def layer_heat_map(values: Tensor, steps: Sequence[int], layers: Sequence[str], measure: str) -> Figure:
    """One measure of every layer over the run: layers up, time across, colour by value.

    Args:
        values: [L, T], NaN (white) where a layer was not measured; the colours span 0 to 1 where the values do, as
            fractions do.
        steps: batch of each column, increasing, at least one.
        layers: names of the rows, the first at the top.
        measure: name, for the colour bar.

    Returns:
        Figure with the map and its colour bar.

    Raises:
        ValueError: if the shape of `values` is not [len(layers), len(steps)] or there is no column.
    """
    if tuple(values.shape) != (len(layers), len(steps)) or not values.numel():
        raise ValueError(
            f"values must be [{len(layers)} layers, {len(steps)} steps] and not empty; its shape is {tuple(values.shape)}"
        )
    array = values.detach().cpu().double().numpy()
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    figure = Figure(figsize=(7.0, 1.4 + 0.22 * max(len(layers), 4)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    # columns are drawn as wide as the time until the next one, so that decimated histories keep their scale
    edges = np.asarray([*steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[0] + 1], dtype=float)
    mesh = axes.pcolormesh(
        edges, np.arange(len(layers) + 1) - 0.5, np.ma.masked_invalid(array), vmin=low, vmax=high, cmap="viridis"
    )
    axes.invert_yaxis()
    axes.set_yticks(range(len(layers)), list(layers), fontsize=7)
    axes.set_xlabel("batch")
    figure.colorbar(mesh, ax=axes, label=measure)
    return figure
