"""Figure that compares runs: one panel per scalar, one colour per configuration, mean and spread over seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["Curve", "comparison_figure"]

# Okabe and Ito, which colour-blind readers can tell apart; then the same dashed
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", "--", ":", "-.")


class Curve(NamedTuple):
    """One run's scalar: steps, ascending [N], and values [N]."""

    steps: np.ndarray
    values: np.ndarray


def comparison_figure(panels: Mapping[str, tuple[str, Mapping[str, Sequence[Curve]]]]) -> Figure:
    """Curves of several configurations, each the mean over its seeds with a band of ± one sample standard deviation.

    Means are over the steps that all seeds of a configuration share; seeds without a common step are drawn singly.

    Args:
        panels: title to (name of the x axis, label to one curve per seed); a label keeps its colour in every panel.

    Returns:
        Figure with one axes per panel, at most three in a row, and one legend.

    Raises:
        ValueError: if there is no panel.
    """
    if not panels:
        raise ValueError("panels needs at least one entry, got none.")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows + 0.6), dpi=120, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    labels = list(dict.fromkeys(label for _, curves in panels.values() for label in curves))
    handles = {}
    for axes, (title, (x_name, by_label)) in zip(grid, panels.items(), strict=False):
        for label, curves in by_label.items():
            position = labels.index(label)
            colour = _COLOURS[position % len(_COLOURS)]
            style = _STYLES[position // len(_COLOURS) % len(_STYLES)]
            for steps, mean, spread in _summaries(curves):
                line, *_ = axes.plot(steps, mean, color=colour, linestyle=style, linewidth=1.4)
                handles[label] = line
                if spread is not None:
                    axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(x_name)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(len(handles), 6), frameon=False
        )
    return figure


def _summaries(curves: Sequence[Curve]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """(steps, mean, sd or None) of all curves together, or of each where they share no step."""
    if not curves:
        return []
    shared = curves[0].steps
    for curve in curves[1:]:
        shared = np.intersect1d(shared, curve.steps)
    if len(curves) == 1 or not len(shared):
        return [(curve.steps, curve.values, None) for curve in curves]
    values = np.stack([curve.values[np.isin(curve.steps, shared)] for curve in curves])
    return [(shared, values.mean(0), values.std(0, ddof=1))]
