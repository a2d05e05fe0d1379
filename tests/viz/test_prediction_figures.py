"""Figures of the prediction object: what they show, and inputs that they refuse."""

from __future__ import annotations

import math

import pytest
import torch

from plasticity_lightning import viz


def labels(figure) -> set[str]:
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def test_raster_marks_cue_and_outcome():
    figure = viz.trial_raster((torch.rand(200, 10) < 0.05).int(), 8, 100, 50, 50)
    top, bottom = figure.axes
    assert len(top.patches) == len(bottom.patches) == 2
    assert len(viz.trial_raster(torch.zeros(200, 10), 8, 100, -1, 50).axes[0].patches) == 1
    with pytest.raises(ValueError, match="spikes"):
        viz.trial_raster(torch.zeros(5), 1, 0, 0, 1)


def test_readouts_and_probabilities_name_their_outcomes():
    time = torch.arange(10.0)
    figure = viz.aligned_readouts(time, {"cue 0": (torch.rand(10), torch.rand(2, 10), 5.0)}, ["A", "B"])
    assert labels(figure) == {"cue onset", "expected outcome", "z when", "P(A)", "P(B)"}
    share = torch.rand(10, 2)
    figure = viz.probability_over_time({"cue 0": (time, share, share)}, ["A", "B"])
    assert labels(figure) == {"P(A) predicted", "P(A) true", "P(B) predicted", "P(B) true"}


def test_fit_line_and_curves_with_gaps():
    figure = viz.amplitude_against_probability(torch.tensor([0.2, 0.8]), torch.tensor([0.1, 0.7]), 1.0, 1.0, -0.1)
    fitted = figure.axes[0].lines[-1]
    assert fitted.get_ydata().tolist() == pytest.approx([-0.1, 0.9])
    curves = torch.tensor([[1.0, math.nan, 3.0], [3.0, 2.0, math.nan]])
    figure = viz.adaptation_curves({"timing": ("error (ms)", 0.0, {"a": curves, "b": curves + 1})})
    assert labels(figure) == {"a", "b"}
    assert figure.axes[0].lines[1].get_ydata().tolist() == [2.0, 2.0, 3.0]
    wide = viz.adaptation_curves({"timing": ("error (ms)", 0.0, {"a": torch.tensor([[0.0], [0.0], [300.0]])})}).axes[0]
    assert wide.collections[0].get_paths()[0].vertices[:, 1].min() >= 0  # mean 100, deviation 141
    assert -10 < wide.get_ylim()[0] < 0


def test_angles_lie_in_their_band():
    one = torch.ones(3)
    figure = viz.subspace_angles(torch.arange(3), {"weights": (80 * one, 70 * one, 89 * one)})
    assert labels(figure) == {"learned", "null, 1 to 99 %"}


@pytest.mark.parametrize("draw", [
    lambda: viz.aligned_readouts(torch.arange(3), {}, []),
    lambda: viz.probability_over_time({}, []),
    lambda: viz.adaptation_curves({}),
    lambda: viz.subspace_angles(torch.arange(3), {}),
])  # fmt: skip
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError, match="at least one"):
        draw()
