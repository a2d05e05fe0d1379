"""N:M and constant fan-in by hand."""

import pytest
import torch

from plasticity_lightning.sparsity.structured import (
    fan_in_limit,
    group_limit,
    is_n_m,
    limit_mask,
    parse_structure,
    within_capacity,
)


def test_two_of_four_consecutive_inputs():
    score = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 5.0, 0.0]])
    mask = limit_mask(score, 2, 4)
    assert mask.int().tolist() == [[1, 1, 0, 0, 1, 0, 1, 0]]  # a tie goes to the lower index
    assert is_n_m(mask, 2, 4)
    assert not is_n_m(mask, 1, 4)


def test_groups_of_a_convolution_run_along_the_inputs():
    score = torch.zeros(1, 4, 1, 2)
    score[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    score[0, :, 0, 1] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    mask = limit_mask(score, 2, 4)
    assert mask[0, :, 0, 0].int().tolist() == [0, 0, 1, 1]
    assert mask[0, :, 0, 1].int().tolist() == [1, 1, 0, 0]


def test_candidates_limit_the_choice():
    candidates = torch.tensor([[True, False, False, True]])
    assert limit_mask(torch.arange(4.0)[None], 3, 4, candidates).tolist() == candidates.tolist()


def test_capacity_leaves_the_best_free_places():
    mask = torch.tensor([[True, False, False, False, True, True, False, False]])
    score = torch.tensor([[0.0, 1.0, 3.0, 2.0, 0.0, 0.0, 9.0, 9.0]])
    assert within_capacity(mask, score, 2, 4).int().tolist() == [[0, 0, 1, 0, 0, 0, 0, 0]]


def test_fan_in_is_rounded_and_never_zero():
    assert fan_in_limit((4, 3, 3, 3), 50) == (12, 27)  # 12.5 rounds to even
    assert fan_in_limit((10, 8), 2) == (1, 8)


def test_errors():
    assert parse_structure("2:4") == (2, 4)
    assert parse_structure("fan_in") is None
    for wrong in ("4:2", "2-4", "0:4"):
        with pytest.raises(ValueError, match="structure must be"):
            parse_structure(wrong)
    with pytest.raises(ValueError, match="has 6"):
        group_limit((3, 6), 2, 4)
