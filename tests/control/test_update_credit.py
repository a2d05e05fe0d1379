"""The account of updates: exact for every decimal ratio, in the published pattern, and resumable."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.control.update_credit import UpdateCredit, exact_ratio


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.5, [1, 0, 1, 0, 1, 0]), (1, [1] * 6), (2, [2] * 6), (0.25, [1, 0, 0, 0, 1, 0]), (1.5, [1, 2, 1, 2, 1, 2])],
)
def test_pattern_over_single_steps(ratio, expected):
    credit = UpdateCredit(ratio)
    assert [credit.take(1) for _ in expected] == expected


@given(
    ratio=st.integers(1, 400).map(lambda n: n / 100),
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=200),
)
def test_updates_never_differ_from_ratio_times_steps_by_one_or_more(ratio, steps):
    credit = UpdateCredit(ratio)
    done, taken = 0, 0
    for n in steps:
        done, taken = done + n, taken + credit.take(n)
        owed = Fraction(str(ratio)) * done + max(0, 1 - Fraction(str(ratio)))
        assert taken == math.floor(owed)


def test_a_tenth_is_a_tenth():
    credit = UpdateCredit(0.1)
    assert sum(credit.take(1) for _ in range(10_000)) == 1000
    assert exact_ratio(0.1) == Fraction(1, 10)


def test_a_change_keeps_what_is_owed():
    credit = UpdateCredit(0.5)
    assert [credit.take(1), credit.take(1)] == [1, 0]
    credit.replay_ratio = 2.0
    assert [credit.take(1), credit.take(1)] == [2, 2]  # half an update stays owed
    assert credit.owed == Fraction(1, 2)
    assert credit.replay_ratio == 2.0


def test_resume_continues_the_account():
    a, b = UpdateCredit(0.3), UpdateCredit(1)
    a.take(7)
    b.load_state_dict(a.state_dict())
    assert [b.take(1) for _ in range(9)] == [a.take(1) for _ in range(9)]


@pytest.mark.parametrize("ratio", [0, -1, math.nan, math.inf, "2", None, True])
def test_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match="replay_ratio="):
        UpdateCredit(ratio)
