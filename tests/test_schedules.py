"""Schedules: values computed by hand, exact ends, errors."""

import pytest

from plasticity_lightning.schedules import SCHEDULES, constant, cosine, cubic, linear, piecewise


def test_values_by_hand():
    assert linear(3, 1.0, 2.0, 1, 5) == 1.5
    assert cosine(1, 0.5, 0.1, 0, 2) == pytest.approx(0.3)  # cos(pi/2) = 0: the middle
    assert cosine(1, 1.0, 0.0, 0, 3) == pytest.approx(0.75)  # (1 + cos(pi/3)) / 2
    assert cubic(1, 0.0, 0.8, 0, 2) == pytest.approx(0.7)  # 0.8 * (1 - 1/8)
    assert constant(7, 0.3) == 0.3
    assert [piecewise(step, (1.0, 0.1, 0.01), (2, 4)) for step in (0, 1, 2, 3, 4, 9)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("name", ["linear", "cosine", "cubic"])
def test_the_ends_are_exact_and_hold(name):
    values = [SCHEDULES[name](step, 0.1, 0.95, 10, 20) for step in (-5, 10, 20, 99)]
    assert values == [0.1, 0.1, 0.95, 0.95]
    middle = [SCHEDULES[name](step, 0.1, 0.95, 10, 20) for step in range(10, 21)]
    assert middle == sorted(middle)


def test_an_empty_interval_is_a_jump():
    assert [linear(step, 0.0, 1.0, 5, 5) for step in (4, 5, 6)] == [0.0, 1.0, 1.0]


def test_errors():
    with pytest.raises(ValueError, match="start=5, end=4"):
        cubic(0, 0, 1, 5, 4)
    with pytest.raises(ValueError, match="2 boundaries need 3 values"):
        piecewise(0, (1, 2), (1, 2))
    with pytest.raises(ValueError, match="rise"):
        piecewise(0, (1, 2, 3), (2, 2))
