"""The comparison figure: what its lines and bands are."""

import numpy as np
import pytest

from plasticity_lightning.viz.compare import Curve, comparison_figure


def curve(steps, values) -> Curve:
    return Curve(np.array(steps), np.array(values, float))


def test_line_is_the_mean_and_band_the_deviation_over_the_shared_steps():
    curves = [curve([0, 1, 2], [1, 2, 3]), curve([0, 2, 3], [3, 5, 9])]
    figure = comparison_figure({"a": ("task", {"x": curves})})
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0, 2]
    assert line.get_ydata().tolist() == [2, 4]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert [band.min(), band.max()] == pytest.approx([2 - 2**0.5, 4 + 2**0.5])  # sample sd of two values 2 apart
    assert axes.get_title() == "a"
    assert axes.get_xlabel() == "task"


def test_seeds_without_a_common_step_are_drawn_singly():
    figure = comparison_figure({"a": ("batch", {"x": [curve([0, 2], [1, 2]), curve([1, 3], [3, 4])]})})
    assert len(figure.axes[0].lines) == 2
    assert not figure.axes[0].collections


def test_a_label_keeps_its_colour_and_empty_cells_are_blank():
    one = [curve([0], [1])]
    panels = {name: ("task", {"x": one, "y": one} if name != "b" else {"x": [], "y": one}) for name in "abcd"}
    figure = comparison_figure(panels)
    assert len(figure.axes) == 6  # two rows of three
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2
    assert figure.axes[0].lines[1].get_color() == figure.axes[1].lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y"]


def test_no_panel_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        comparison_figure({})
