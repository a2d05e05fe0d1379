import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.readouts import (
    batch_max_scale,
    feature_scale,
    normalise_counts,
    random_features,
    random_projection,
    silent_items,
    soft_cross_entropy,
    soft_targets,
)


def test_counts_become_shares_and_a_silent_item_a_zero_row():
    counts = torch.tensor([[1, 3, 0], [0, 0, 0], [2, 2, 4]])
    # Row sums 4, 0, 8.
    expected = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    assert torch.equal(normalise_counts(counts), expected)
    assert silent_items(counts) == 1
    assert feature_scale(expected) == 0.75


@given(st.lists(st.lists(st.integers(0, 100), min_size=4, max_size=4), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_every_row_sums_to_one_unless_it_is_silent(rows):
    counts = torch.tensor(rows)
    sums = normalise_counts(counts).sum(dim=1)
    assert torch.allclose(sums, (counts.sum(dim=1) > 0).float())


def test_batch_max_scaling_depends_on_the_batch():
    features = torch.tensor([[0.2, 0.1], [0.4, 0.0], [0.0, 0.0], [0.5, 0.25]])
    # Batches of 2 have maxima 0.4 and 0.5; a last batch of 1 in batches of 3 has its own, 0.5.
    assert torch.allclose(batch_max_scale(features, 2), torch.tensor([[0.5, 0.25], [1.0, 0.0], [0.0, 0.0], [1.0, 0.5]]))
    assert torch.allclose(batch_max_scale(features, 3)[3], torch.tensor([1.0, 0.5]))
    assert torch.equal(batch_max_scale(torch.zeros(3, 2), 2), torch.zeros(3, 2))


def test_features_refuse_bad_input():
    with pytest.raises(ValueError, match="counts must be"):
        normalise_counts(torch.zeros(3))
    with pytest.raises(ValueError, match="positive maximum"):
        feature_scale(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="batch_size"):
        batch_max_scale(torch.zeros(2, 2), 0)


def test_soft_targets_of_ten_classes_are_those_of_the_paper():
    target = soft_targets(torch.tensor([3]), 10)[0]
    # e / (e + 9 / e) = 2.71828 / 6.02920 and (1 / e) / 6.02920
    assert target[3].item() == pytest.approx(0.4508, abs=1e-4)
    assert target[0].item() == pytest.approx(0.0610, abs=1e-4)
    with pytest.raises(ValueError, match="labels must lie"):
        soft_targets(torch.tensor([10]), 10)


def test_loss_of_zero_logits_is_log_k():
    assert soft_cross_entropy(torch.zeros(3, 10), soft_targets(torch.arange(3), 10)).item() == pytest.approx(
        math.log(10), rel=1e-6
    )
    with pytest.raises(ValueError, match="one shape"):
        soft_cross_entropy(torch.zeros(3, 2), torch.zeros(2, 2))


def test_shares_do_not_depend_on_the_unit_of_a_feature():
    features = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) * 1e-3  # every row sums to less than 1
    assert torch.allclose(normalise_counts(features), normalise_counts(features * 1e4))
    assert torch.allclose(normalise_counts(features).sum(1), torch.ones(3))


def test_a_random_projection_has_fan_in_signs_in_each_row():
    projection = random_projection(20, 7, torch.Generator().manual_seed(1), fan_in=5)
    assert torch.equal((projection != 0).sum(dim=1), torch.full((7,), 5))
    assert set(projection.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(projection, random_projection(20, 7, torch.Generator().manual_seed(1), fan_in=5))
    assert not torch.equal(projection, random_projection(20, 7, torch.Generator().manual_seed(2), fan_in=5))
    for arguments, name in (((20, 7, torch.Generator(), 21), "fan_in"), ((20, 0, torch.Generator()), "n_features")):
        with pytest.raises(ValueError, match=name):
            random_projection(*arguments)


def test_random_features_are_rectified_signed_sums():
    projection = torch.tensor([[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]])
    # 5 - 2 = 3 and 1 - 2 = -1; 0 - 4 = -4 and 7 - 4 = 3
    images = torch.tensor([[5.0, 2.0, 1.0], [0.0, 4.0, 7.0]])
    assert torch.equal(random_features(images, projection), torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
    with pytest.raises(ValueError, match="flat_images must be float"):
        random_features(images.int(), projection)
    with pytest.raises(ValueError, match="images have 2 values, the projection takes 3"):
        random_features(images[:, :2], projection)
