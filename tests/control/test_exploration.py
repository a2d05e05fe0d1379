"""Schedules written as text."""

import pytest

from plasticity_lightning.control.exploration import parse_schedule


def test_a_line_and_a_number():
    sigma = parse_schedule("linear(1.0, 0.1, 100)")
    assert [sigma(step) for step in (0, 50, 100, 500)] == [1.0, pytest.approx(0.55), 0.1, 0.1]
    assert parse_schedule(0.2)(7) == parse_schedule("0.2")(9) == 0.2


@pytest.mark.parametrize("text", ["linear(1,2)", "cosine(1,0,5)", "", "linear(1,0,0)", "linear(-1,0,5)", "nan", None])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="linear\\(start, end, steps\\)"):
        parse_schedule(text)
