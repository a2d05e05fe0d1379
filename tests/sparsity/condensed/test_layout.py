"""The condensed form by hand, and back again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.sparsity.condensed import condense, expand, padding_share


def test_living_weights_and_where_they_read():
    weight = torch.tensor([[0.0, 2.0, 0.0, -3.0], [0.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    condensed = condense(weight)
    assert condensed.values.tolist() == [[2.0, -3.0], [5.0, 0.0]]
    assert condensed.index.tolist() == [[1, 3], [0, 0]]
    assert condensed.counts.tolist() == [2, 1]
    assert condensed.rows.tolist() == [0, 2]  # the second output has no weight
    assert padding_share(condensed) == 0.25
    assert torch.equal(expand(condensed), weight)


def test_a_mask_decides_what_lives_and_a_living_zero_stays():
    weight = torch.tensor([[0.0, 2.0, 7.0]])
    condensed = condense(weight, torch.tensor([[True, True, False]]))
    assert condensed.values.tolist() == [[0.0, 2.0]]
    assert expand(condensed).tolist() == [[0.0, 2.0, 0.0]]


def test_the_index_is_as_narrow_as_the_inputs_allow():
    assert condense(torch.eye(2, 32_767)).index.dtype == torch.int16
    assert condense(torch.eye(2, 32_768)).index.dtype == torch.int32


@given(n_outputs=st.integers(1, 12), n_inputs=st.integers(1, 12), density=st.floats(0, 1), seed=st.integers(0, 2**16))
def test_nothing_is_lost_and_rows_ascend(n_outputs, n_inputs, density, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_outputs, n_inputs, generator=generator) < density
    weight = torch.randn(n_outputs, n_inputs, generator=generator) * mask
    condensed = condense(weight, mask)
    assert torch.equal(expand(condensed), weight)
    assert int(condensed.counts.sum()) == int(mask.sum())
    for row, count in zip(condensed.index.tolist(), condensed.counts.tolist(), strict=True):
        assert row[:count] == sorted(set(row[:count]))
    assert 0 <= padding_share(condensed) < 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"this weight is \(1, 2, 3, 3\)"):
        condense(torch.ones(1, 2, 3, 3))
    with pytest.raises(ValueError, match=r"the mask is \(2, 2\), the weight \(2, 3\)"):
        condense(torch.ones(2, 3), torch.ones(2, 2, dtype=torch.bool))
