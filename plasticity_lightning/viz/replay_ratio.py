"""Figure of an adaptive replay ratio: ratio, measure and return over one axis."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

__all__ = ["replay_ratio_chart"]


def replay_ratio_chart(rows: Sequence[tuple[float, float, float, float]], x_label: str, measure_label: str) -> Figure:
    """Three curves over one x-axis, each with its own scale.

    Args:
        rows: one a check, in order: its moment, the replay ratio after it, what it judged by, and the return of the
            last episode (NaN if there was none).
        x_label: unit of the moments.
        measure_label: name of the measure.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("rows holds no check")
    x, ratios, measures, returns = zip(*rows, strict=True)
    figure = Figure(figsize=(7.0, 3.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    curves = (("replay ratio", ratios, "C3"), (measure_label, measures, "C0"), ("return", returns, "C2"))
    for position, (label, values, colour) in enumerate(curves):
        own = axes if position == 0 else axes.twinx()
        if position == 2:
            own.spines["right"].set_position(("axes", 1.14))
        own.plot(x, values, color=colour, marker=".", drawstyle="steps-post" if position == 0 else "default")
        own.set_ylabel(label, color=colour)
        own.tick_params(axis="y", colors=colour)
    return figure
