"""Figures of the prediction object: raster, readouts around the outcome, probabilities, adaptation, angles.

Arrays in, figures out, as in `viz.spiking`. Times are in ms after cue onset; outcomes keep their colours in every
figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

__all__ = [
    "adaptation_curves",
    "aligned_readouts",
    "amplitude_against_probability",
    "probability_over_time",
    "subspace_angles",
    "trial_raster",
]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_COLUMNS = 3  # panels in a row, at most
_BLACK, _GREY = "#000000", "#888888"


def trial_raster(spikes: Tensor, n_excitatory: int, time_zero_ms: float, onset_ms: float, stimulus_ms: float) -> Figure:
    """Spikes of one trial with cue and outcome.

    Args:
        spikes: 0/1 [T, N] at 1 ms, excitatory neurons first.
        n_excitatory: in [0, N].
        time_zero_ms: cue onset after the first step.
        onset_ms: of the outcome; negative: none.
        stimulus_ms: length of both.

    Raises:
        ValueError: if spikes is not [T, N].
    """
    raster = _array("spikes", spikes, 2) > 0
    figure, (top, bottom) = _stacked(raster.shape[0])
    step, neuron = np.nonzero(raster)
    for label, chosen, colour in (
        ("excitatory", neuron < n_excitatory, "#0072B2"),
        ("inhibitory", neuron >= n_excitatory, "#D55E00"),
    ):
        top.scatter(step[chosen] - time_zero_ms, neuron[chosen], s=0.8, c=colour, linewidths=0, label=label)
    rate = (
        raster.sum(1).reshape(-1, 5).sum(1)
        if len(raster) % 5 == 0
        else raster[: len(raster) // 5 * 5].sum(1).reshape(-1, 5).sum(1)
    )
    bottom.step(
        np.arange(len(rate)) * 5 - time_zero_ms,
        rate * 200.0 / raster.shape[1],
        color=_BLACK,
        linewidth=1.0,
        where="post",
    )
    for axes in (top, bottom):
        axes.axvspan(0, stimulus_ms, color="#009E73", alpha=0.2, linewidth=0)
        if onset_ms >= 0:
            axes.axvspan(onset_ms, onset_ms + stimulus_ms, color="#CC79A7", alpha=0.3, linewidth=0)
    top.set(ylabel="neuron")
    top.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, markerscale=6)
    top.set_title("cue (green), outcome (purple)", loc="left", fontsize=10)
    bottom.set(xlabel="time after cue onset (ms)", ylabel="rate (Hz)")
    return figure


def aligned_readouts(time: Tensor, panels: Mapping[str, tuple[Tensor, Tensor, float]], names: Sequence[str]) -> Figure:
    """The readout of time and the predictions of the outcomes around the expected onset, one panel a cue and phase.

    Args:
        time: [T].
        panels: title to (z_when [T], P_k [K, T], latency in ms); at least one.
        names: of the outcomes.

    Raises:
        ValueError: if there is no panel.
    """
    figure, grid = _grid(panels, sharey=True)
    at = time.numpy()
    for axes, (title, (when, predictions, latency)) in zip(grid, panels.items(), strict=False):
        axes.axvline(0, color="#009E73", linewidth=1.2, label="cue onset")
        axes.axvline(latency, color=_GREY, linestyle=":", linewidth=1.2, label="expected outcome")
        axes.plot(at, when.numpy(), color=_BLACK, linewidth=1.4, label="z when")
        for k, (name, prediction) in enumerate(zip(names, predictions.numpy(), strict=True)):
            axes.plot(at, prediction, color=_COLOURS[k % len(_COLOURS)], linewidth=1.4, label=f"P({name})")
        axes.set_title(title, fontsize=10)
    _label_edges(grid, len(panels), "time after cue onset (ms)", "readout, prediction")
    _legend(figure, grid[0])
    return figure


def probability_over_time(panels: Mapping[str, tuple[Tensor, Tensor, Tensor]], names: Sequence[str]) -> Figure:
    """Predicted share of each outcome at its onset over trials, with the true probability dashed.

    Args:
        panels: cue to (trial numbers [n], shares [n, K], true probabilities [n, K]); at least one.
        names: of the outcomes.

    Raises:
        ValueError: if there is no panel.
    """
    figure, grid = _grid(panels, sharey=True)
    for axes, (title, (trial, share, truth)) in zip(grid, panels.items(), strict=False):
        for k, name in enumerate(names):
            colour = _COLOURS[k % len(_COLOURS)]
            axes.plot(trial.numpy(), share[:, k].numpy(), color=colour, linewidth=1.0, label=f"P({name}) predicted")
            axes.plot(
                trial.numpy(), truth[:, k].numpy(), color=colour, linewidth=1.4, linestyle="--", label=f"P({name}) true"
            )
        axes.set_ylim(-0.05, 1.05)
        axes.set_title(title, fontsize=10)
    _label_edges(grid, len(panels), "trial", "share of the prediction")
    _legend(figure, grid[0])
    return figure


def amplitude_against_probability(
    probability: Tensor, amplitude: Tensor, r: float, slope: float, intercept: float
) -> Figure:
    """Peak amplitudes against true probabilities, both [n], with the fitted line and the identity."""
    figure = Figure(figsize=(4.6, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    x = np.array([0.0, 1.0])
    axes.plot(x, x, color=_GREY, linestyle=":", linewidth=1.2, label="identity")
    axes.plot(
        probability.numpy(), amplitude.numpy(), "o", color=_COLOURS[0], markersize=4, alpha=0.6, label="a cue's outcome"
    )
    axes.plot(x, intercept + slope * x, color=_COLOURS[1], label=f"fit over all: slope {slope:.2f}, r = {r:.3f}")
    axes.set(xlabel="probability of the outcome", ylabel="peak amplitude of P")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def adaptation_curves(panels: Mapping[str, tuple[str, float, Mapping[str, Tensor]]]) -> Figure:
    """How predictions follow a change, all rules on one axis: mean over lanes with a band of ± one standard deviation.

    The band is cut at 0, below which neither an error nor a share lies.

    Args:
        panels: title to (name of the y axis, target drawn dashed, rule to curves [L, n] over the trials of the
            switched cue); at least one.

    Raises:
        ValueError: if there is no panel.
    """
    figure, grid = _grid(panels, sharey=False)
    for axes, (title, (name, target, rules)) in zip(grid, panels.items(), strict=False):
        axes.axhline(target, color=_GREY, linestyle="--", linewidth=1.0)
        for i, (rule, curves) in enumerate(rules.items()):
            values = np.ma.masked_invalid(curves.numpy())
            trial, mean, spread = np.arange(1, values.shape[1] + 1), values.mean(0), values.std(0)
            colour = (*_COLOURS, _BLACK)[i % (len(_COLOURS) + 1)]
            axes.plot(trial, mean, color=colour, linewidth=1.4, label=rule)
            low = np.ma.maximum(mean - spread, 0.0)
            axes.fill_between(trial, low, mean + spread, color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="trial of the switched cue", ylabel=name)
        axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])  # the target of an error is 0
        axes.set_title(title, fontsize=10)
    _legend(figure, grid[0])
    return figure


def subspace_angles(trial: Tensor, angles: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Figure:
    """Angle between the subspaces of time and identity over trials, and the band of chance.

    Args:
        trial: [n].
        angles: title (such as "weights" or "signals") to (angle [n], lower and upper bound of the null [n]), degrees.

    Raises:
        ValueError: if there is no panel.
    """
    figure, grid = _grid(angles, sharey=True)
    for axes, (title, (angle, low, high)) in zip(grid, angles.items(), strict=False):
        axes.fill_between(
            trial.numpy(), low.numpy(), high.numpy(), color=_GREY, alpha=0.3, linewidth=0, label="null, 1 to 99 %"
        )
        axes.plot(trial.numpy(), angle.numpy(), color=_COLOURS[0], linewidth=1.4, label="learned")
        axes.set(xlabel="trial", ylim=(0, 92))
        axes.set_title(title, fontsize=10)
    grid[0].set_ylabel("angle (degrees)")
    _legend(figure, grid[0])
    return figure


def _array(name: str, values: Tensor, n_dims: int) -> np.ndarray:
    if values.dim() != n_dims:
        raise ValueError(f"{name} must have {n_dims} dimensions, got shape {tuple(values.shape)}.")
    return values.detach().cpu().numpy()


def _stacked(length: int):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(7.0, 5.0), dpi=120, layout="constrained")
    both = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for axes in both:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, both


def _grid(panels: Mapping[str, object], sharey: bool):  # type: ignore[no-untyped-def]
    if not panels:
        raise ValueError("panels needs at least one entry, got none.")
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.6, 2.6 * rows + 0.6), dpi=120, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure, grid


def _label_edges(grid, n: int, x: str, y: str) -> None:  # type: ignore[no-untyped-def]
    """Name the axes of n panels on the left and below only: all panels have the same."""
    for i, axes in enumerate(grid[:n]):
        if i % _COLUMNS == 0:
            axes.set_ylabel(y)
        if i >= n - _COLUMNS:
            axes.set_xlabel(x)


def _legend(figure: Figure, axes) -> None:  # type: ignore[no-untyped-def]
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
