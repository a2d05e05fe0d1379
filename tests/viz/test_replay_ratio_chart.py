"""Ratio, measure and return stand over one axis."""

import math

import pytest

from plasticity_lightning.viz.replay_ratio import replay_ratio_chart


def test_three_curves_over_one_axis():
    figure = replay_ratio_chart([(1, 0.5, 0.3, math.nan), (5, 2.0, 0.4, 7.0)], "frame", "fau")
    curves = {axes.get_ylabel(): axes.lines[0].get_xydata().tolist() for axes in figure.axes}
    assert curves["replay ratio"] == [[1, 0.5], [5, 2.0]]
    assert curves["fau"] == [[1, 0.3], [5, 0.4]]
    assert curves["return"][1] == [5, 7.0]
    assert figure.axes[0].get_xlabel() == "frame"
    with pytest.raises(ValueError, match="no check"):
        replay_ratio_chart([], "frame", "fau")
