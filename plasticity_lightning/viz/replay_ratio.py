"""Figure of an adaptive replay ratio: ratio, measure and return over one axis."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

__all__ = ["replay_ratio_chart"]


def replay_ratio_chart(
    x: Sequence[float],
    ratios: Sequence[float],
    measures: Sequence[float],
    returns: Sequence[float],
    x_label: str,
    measure_label: str,
) -> Figure:
    """Three curves over one x-axis, each with its own scale.

    Args:
        x: moments of the checks, increasing.
        ratios: replay ratio after each check.
        measures: what each check judged by.
        returns: return of the last episode at each check; NaN where there was none.
        x_label: unit of `x`.
        measure_label: name of the measure.

    Raises:
        ValueError: if the lengths differ.
    """
    if not len(x) == len(ratios) == len(measures) == len(returns):
        raise ValueError(
            f"lengths differ: x {len(x)}, ratios {len(ratios)}, measures {len(measures)}, returns {len(returns)}"
        )
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
