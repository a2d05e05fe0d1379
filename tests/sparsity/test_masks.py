"""Masks: exact selection with ties, packing, statistics by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.sparsity.masks import (
    dead_outputs,
    density,
    disconnected_units,
    overlap,
    pack,
    top_n,
    unpack,
    unused_inputs,
)

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=40).map(lambda v: torch.tensor(v, dtype=torch.float32))


@given(scores, st.data())
def test_top_n_equals_a_stable_sort(score, data):
    candidates = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(score), max_size=len(score))))
    n = data.draw(st.integers(0, int(candidates.sum())))
    order = sorted((i for i in range(len(score)) if candidates[i]), key=lambda i: (-score[i].item(), i))
    expected = torch.zeros(len(score), dtype=torch.bool)
    expected[order[:n]] = True
    assert torch.equal(top_n(score, n, candidates), expected)


def test_ties_go_to_the_lower_index_and_nan_comes_last():
    assert top_n(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2).tolist() == [True, True, False, False]
    assert top_n(torch.tensor([float("nan"), -5.0, float("inf")]), 2).tolist() == [False, True, True]


def test_top_n_in_bfloat16_and_for_integers():
    assert top_n(torch.tensor([1, 3, 2]), 2).tolist() == [False, True, True]
    assert top_n(torch.tensor([1, 3, 3, 2], dtype=torch.bfloat16), 3).tolist() == [False, True, True, True]


def test_too_few_candidates():
    with pytest.raises(ValueError, match="n=3 must lie between 0 and the 2 candidates"):
        top_n(torch.ones(4), 3, torch.tensor([True, True, False, False]))


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_packing_is_exact_and_eight_to_a_byte(bits):
    mask = torch.tensor(bits).view(1, -1)
    packed = pack(mask)
    assert packed.dtype == torch.uint8
    assert packed.numel() == (len(bits) + 7) // 8
    assert torch.equal(unpack(packed, mask.shape), mask)


def test_unpack_refuses_another_shape():
    with pytest.raises(ValueError, match="2 bytes do not hold"):
        unpack(torch.zeros(2, dtype=torch.uint8), (3,))


def test_statistics_by_hand():
    before = torch.tensor([[True, True, False], [True, False, False]])
    now = torch.tensor([[True, False, True], [False, False, False]])
    assert density([before, now]) == 5 / 12
    assert overlap(now, before) == 1 / 3
    assert dead_outputs(now).tolist() == [False, True]
    assert unused_inputs(now).tolist() == [False, True, False]


def test_unused_inputs_of_a_grouped_convolution():
    mask = torch.zeros(4, 1, 3, 3, dtype=torch.bool)  # 2 groups of 2 outputs, one input each
    mask[1, 0, 2, 2] = True
    assert unused_inputs(mask, groups=2).tolist() == [False, True]


def test_disconnected_units_lack_an_input_or_a_reader():
    incoming = torch.tensor([[True], [False], [True]])  # the middle unit gets nothing
    outgoing = torch.tensor([[True, True, False]])  # the last one is not read
    assert disconnected_units(incoming, outgoing).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="3 units come in"):
        disconnected_units(incoming, outgoing[:, :2])
