import io

import numpy as np
import pytest
import torch

from plasticity_lightning.viz import (
    accuracy_curve,
    liquid_3d,
    modulation_trace,
    raster_plot,
    rate_histogram,
    weight_histograms,
)


def labels(axes):
    return axes.get_xlabel(), axes.get_ylabel()


def test_the_raster_shows_each_spike_once_by_population():
    spikes = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 0, 1]])
    figure = raster_plot(spikes, n_excitatory=2)
    top, bottom = figure.axes
    excitatory, inhibitory = (collection.get_offsets().tolist() for collection in top.collections)
    # (time, neuron)
    assert excitatory == [[0, 0], [1, 1], [2, 0]]
    assert inhibitory == [[1, 2], [2, 2]]
    assert [line.get_ydata().tolist() for line in bottom.lines] == [[1, 1, 1], [0, 1, 1]]
    assert labels(bottom) == ("time (ms)", "spikes per ms")
    assert top.get_ylabel() == "neuron"
    figure.savefig(io.BytesIO(), format="png")


def test_the_liquid_draws_neurons_and_recurrent_edges_only():
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    # Source 3 is an input channel: not drawn.
    figure = liquid_3d(positions, 2, torch.tensor([0, 2, 3]), torch.tensor([1, 0, 1]))
    (axes,) = figure.axes
    edges, excitatory, inhibitory = axes.collections
    assert np.asarray(edges._segments3d).tolist() == [[[0, 0, 0], [1, 0, 0]], [[0, 2, 0], [0, 0, 0]]]
    assert np.asarray(excitatory._offsets3d).T.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert np.asarray(inhibitory._offsets3d).T.tolist() == [[0, 2, 0]]
    assert "2 of 2 recurrent" in axes.get_title()
    assert axes.get_zlabel() == "z (grid units)"
    figure.savefig(io.BytesIO(), format="png")
    few = liquid_3d(positions, 2, torch.tensor([0, 2, 3]), torch.tensor([1, 0, 1]), max_edges=1)
    assert len(few.axes[0].collections[0]._segments3d) == 1


def test_rates_are_mean_counts_per_second():
    # Means 5 and 15 spikes in 250 ms are 20 and 60 Hz, mean 40 Hz.
    figure = rate_histogram(torch.tensor([[4, 10], [6, 20]]), 250.0)
    (axes,) = figure.axes
    heights = [patch.get_height() for patch in axes.patches]
    assert sum(heights) == 2
    assert axes.patches[0].get_x() == pytest.approx(20.0)
    assert axes.patches[-1].get_x() + axes.patches[-1].get_width() == pytest.approx(60.0)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(40.0)
    assert labels(axes) == ("mean firing rate (Hz)", "neurons")


def test_each_group_of_weights_has_its_histogram():
    figure = weight_histograms({"E to E": torch.tensor([1.0, 3.0]), "I to E": torch.full((2, 2), -1.0)})
    first, second = figure.axes
    assert first.get_title(loc="left") == "E to E: 2.00 ± 1.00, n = 2"
    assert sum(patch.get_height() for patch in first.patches) == 2
    assert sum(patch.get_height() for patch in second.patches) == 4
    assert first.get_xlim() == second.get_xlim()
    assert second.get_xlabel() == "weight (dimensionless)"


def test_the_modulation_shows_samples_and_their_mean():
    figure = modulation_trace(torch.tensor([[0.1, 0.2], [0.3, 0.2]]))
    lines = [line.get_ydata() for line in figure.axes[0].lines]
    np.testing.assert_allclose(lines, [[0.1, 0.2], [0.3, 0.2], [0.2, 0.2]], rtol=1e-6)
    assert labels(figure.axes[0]) == ("time (ms)", "depression rate A (per spike)")


def test_the_accuracy_curve_marks_the_first_best_validation_step():
    figure = accuracy_curve([0.5, 0.7, 0.9], [0.4, 0.6, 0.6])
    train, val, chosen = figure.axes[0].lines
    np.testing.assert_allclose(train.get_ydata(), [50, 70, 90])
    np.testing.assert_allclose(val.get_ydata(), [40, 60, 60])
    np.testing.assert_allclose(np.ravel(chosen.get_data()), [2, 60])
    assert labels(figure.axes[0]) == ("readout step", "accuracy (%)")


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="spikes must have 2"):
        raster_plot(torch.zeros(3), 1)
    with pytest.raises(ValueError, match="n_excitatory"):
        raster_plot(torch.zeros(3, 2), 3)
    with pytest.raises(ValueError, match="one length"):
        liquid_3d(torch.zeros(2, 3), 1, torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="duration_ms"):
        rate_histogram(torch.zeros(2, 2), 0.0)
    with pytest.raises(ValueError, match="groups without a synapse"):
        weight_histograms({"E": torch.zeros(0)})
    with pytest.raises(ValueError, match="one length"):
        accuracy_curve([0.1], [0.1, 0.2])
