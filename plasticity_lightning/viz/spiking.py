"""Figures of a spiking liquid: raster, liquid in space, rates, weights, astrocyte modulation, readout accuracy.

Each function takes tensors and returns a `matplotlib.figure.Figure` that belongs to no window and no global state, so
that it can be logged from any process. Colours are those of Okabe and Ito, which colour-blind readers can tell apart;
excitatory neurons are blue and inhibitory ones vermilion everywhere. A time step is 1 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from torch import Tensor

__all__ = ["accuracy_curve", "liquid_3d", "modulation_trace", "raster_plot", "rate_histogram", "weight_histograms"]

_EXCITATORY, _INHIBITORY = "#0072B2", "#D55E00"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def _array(name: str, values: Tensor, n_dims: int) -> np.ndarray:
    if values.dim() != n_dims:
        raise ValueError(f"{name} must have {n_dims} dimensions, got shape {tuple(values.shape)}.")
    return values.detach().cpu().numpy()


def _check_excitatory(n_excitatory: int, n_neurons: int) -> None:
    if not 0 <= n_excitatory <= n_neurons:
        raise ValueError(f"n_excitatory must lie in [0, {n_neurons}] (the neurons), got {n_excitatory}.")


def _axes(width: float = 7.0, height: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def raster_plot(spikes: Tensor, n_excitatory: int) -> Figure:
    """Spikes of one sample: time across, neurons up, with the population count per step below.

    Args:
        spikes: 0/1 [T, N]; excitatory neurons first.
        n_excitatory: in [0, N].

    Returns:
        Figure with two axes: raster and count.

    Raises:
        ValueError: if spikes is not [T, N] or n_excitatory is out of range.
    """
    raster = _array("spikes", spikes, 2) > 0
    n_steps, n_neurons = raster.shape
    _check_excitatory(n_excitatory, n_neurons)
    figure = Figure(figsize=(7.0, 5.0), dpi=120, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    size = float(np.clip(1200.0 / max(n_neurons, 1), 0.8, 8.0))
    parts = (("excitatory", 0, n_excitatory, _EXCITATORY), ("inhibitory", n_excitatory, n_neurons, _INHIBITORY))
    for label, first, last, colour in parts:
        time, neuron = np.nonzero(raster[:, first:last])
        top.scatter(time, neuron + first, s=size, c=colour, marker="o", linewidths=0, label=label)
        bottom.step(np.arange(n_steps), raster[:, first:last].sum(axis=1), where="mid", color=colour, linewidth=1.0)
    top.set_ylabel("neuron")
    top.set_ylim(-0.5, n_neurons - 0.5)
    top.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, markerscale=8.0 / size**0.5)
    bottom.set(xlabel="time (ms)", ylabel="spikes per ms", xlim=(-0.5, n_steps - 0.5))
    for axes in (top, bottom):
        _plain(axes)
    return figure


def liquid_3d(positions: Tensor, n_excitatory: int, source: Tensor, target: Tensor, max_edges: int = 400) -> Figure:
    """The liquid in space, with at most `max_edges` evenly chosen connections coloured by their source.

    Args:
        positions: [N, 3] in grid units; excitatory neurons first.
        n_excitatory: in [0, N].
        source: presynaptic index of each edge [E]; edges from input channels (index N and above) are not drawn.
        target: postsynaptic index of each edge [E], in [0, N).
        max_edges: edges to draw, at least 0.

    Returns:
        Figure with one three-dimensional axes.

    Raises:
        ValueError: if shapes disagree or max_edges is negative.
    """
    points = _array("positions", positions, 2)
    if points.shape[1] != 3:
        raise ValueError(f"positions must be [N, 3], got {points.shape}.")
    _check_excitatory(n_excitatory, len(points))
    pre, post = _array("source", source, 1), _array("target", target, 1)
    if pre.shape != post.shape:
        raise ValueError(f"source and target must have one length, got {len(pre)} and {len(post)}.")
    if max_edges < 0:
        raise ValueError(f"max_edges must be at least 0, got {max_edges}.")
    recurrent = np.flatnonzero(pre < len(points))
    if len(recurrent) > max_edges:
        recurrent = recurrent[np.linspace(0, len(recurrent) - 1, max_edges).astype(np.int64)]
    pre, post = pre[recurrent].astype(np.int64), post[recurrent].astype(np.int64)
    figure = Figure(figsize=(6.5, 6.0), dpi=120)
    figure.subplots_adjust(left=0.0, right=0.92, bottom=0.04, top=0.94)
    axes = figure.add_subplot(projection="3d")
    colours = np.where(pre < n_excitatory, _EXCITATORY, _INHIBITORY).tolist()
    segments = np.stack([points[pre], points[post]], axis=1)
    axes.add_collection3d(Line3DCollection(segments, colors=colours, linewidths=0.8, alpha=0.6))
    for label, part, colour in (
        ("excitatory", points[:n_excitatory], _EXCITATORY),
        ("inhibitory", points[n_excitatory:], _INHIBITORY),
    ):
        axes.scatter(*part.T, s=7, c=colour, depthshade=True, label=label)
    axes.set(xlabel="x (grid units)", ylabel="y (grid units)", zlabel="z (grid units)")
    axes.set_box_aspect(np.ptp(points, axis=0) + 1.0)
    axes.set_title(f"{len(points)} neurons, {len(pre)} of {int((source < len(points)).sum())} recurrent synapses drawn")
    axes.legend(loc="upper left", frameon=False)
    return figure


def rate_histogram(counts: Tensor, duration_ms: float) -> Figure:
    """Distribution of the neurons' mean firing rates over the items.

    Args:
        counts: spikes per item and neuron [B, N].
        duration_ms: length of an item, positive.

    Returns:
        Figure with one axes; the dashed line is the mean over neurons.

    Raises:
        ValueError: if counts is not [B, N] or duration_ms is not positive.
    """
    if not duration_ms > 0:
        raise ValueError(f"duration_ms must be positive, got {duration_ms}.")
    rates = _array("counts", counts, 2).mean(axis=0) * (1000.0 / duration_ms)
    figure, axes = _axes()
    axes.hist(rates, bins=40, color=_EXCITATORY)
    axes.axvline(rates.mean(), color="black", linestyle="--", linewidth=1.2, label=f"mean {rates.mean():.1f} Hz")
    axes.set(xlabel="mean firing rate (Hz)", ylabel="neurons")
    axes.legend(frameon=False)
    return figure


def weight_histograms(weights: Mapping[str, Tensor]) -> Figure:
    """One histogram per group of synapses, on a common weight axis.

    Args:
        weights: group name (such as "E to I") to weights of any shape, dimensionless; at least one group, none empty.

    Returns:
        Figure with one axes per group.

    Raises:
        ValueError: if there is no group or a group is empty.
    """
    if not weights:
        raise ValueError("weights needs at least one group, got none.")
    empty = [name for name, values in weights.items() if values.numel() == 0]
    if empty:
        raise ValueError(f"weights has groups without a synapse: {empty}; leave them out.")
    arrays = {name: values.detach().cpu().flatten().numpy() for name, values in weights.items()}
    low = min(float(values.min()) for values in arrays.values())
    high = max(float(values.max()) for values in arrays.values())
    margin = 0.02 * (high - low) or 0.5
    bins = np.linspace(low - margin, high + margin, 61)
    figure = Figure(figsize=(7.0, 0.8 + 1.3 * len(arrays)), dpi=120, layout="constrained")
    panels = figure.subplots(len(arrays), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axes, (name, values)) in enumerate(zip(panels, arrays.items(), strict=True)):
        axes.hist(values, bins=bins, color=_COLOURS[index % len(_COLOURS)])
        axes.set_ylabel("synapses")
        axes.set_title(f"{name}: {values.mean():.2f} ± {values.std():.2f}, n = {values.size}", loc="left", fontsize=10)
        _plain(axes)
    panels[-1].set_xlabel("weight (dimensionless)")
    return figure


def modulation_trace(modulation: Tensor) -> Figure:
    """The astrocyte's depression rate over time: each sample thin (the first 50), the mean of all bold.

    Args:
        modulation: [B, T], per 1 ms step.

    Returns:
        Figure with one axes; the last line is the mean.

    Raises:
        ValueError: if modulation is not [B, T].
    """
    traces = _array("modulation", modulation, 2)
    time = np.arange(traces.shape[1])
    figure, axes = _axes()
    for trace in traces[:50]:  # more lines than that only hide each other
        axes.plot(time, trace, color="#56B4E9", linewidth=0.6, alpha=0.5)
    axes.plot(time, traces.mean(axis=0), color="black", linewidth=1.8, label=f"mean of {len(traces)} samples")
    axes.set(xlabel="time (ms)", ylabel="depression rate A (per spike)", xlim=(0, max(len(time) - 1, 1)))
    axes.legend(frameon=False)
    return figure


def accuracy_curve(train: Sequence[float] | Tensor, val: Sequence[float] | Tensor) -> Figure:
    """Training and validation accuracy per step of a readout, with the chosen (first best validation) step marked.

    Args:
        train: accuracies in [0, 1], one per step.
        val: the same, of the same length, at least 1.

    Returns:
        Figure with one axes in percent; lines: train, validation, chosen step.

    Raises:
        ValueError: if the lengths differ or are 0.
    """
    train_percent = 100.0 * torch.as_tensor(train, dtype=torch.float64).numpy()
    val_percent = 100.0 * torch.as_tensor(val, dtype=torch.float64).numpy()
    if train_percent.shape != val_percent.shape or val_percent.ndim != 1 or not val_percent.size:
        raise ValueError(
            "train and val must be sequences of one length, at least 1; "
            f"got shapes {train_percent.shape} and {val_percent.shape}."
        )
    steps = np.arange(1, len(val_percent) + 1)
    best = int(val_percent.argmax())
    figure, axes = _axes()
    axes.plot(steps, train_percent, color=_EXCITATORY, linestyle="--", label="train")
    axes.plot(steps, val_percent, color=_INHIBITORY, label="validation")
    label = f"chosen: step {steps[best]}, {val_percent[best]:.2f} %"
    axes.plot(steps[best], val_percent[best], "o", color="black", markersize=6, linestyle="none", label=label)
    axes.set(xlabel="readout step", ylabel="accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower right")
    return figure
