"""The loader of ticks: finite epochs that reset nothing, resumable inside one."""

import pytest

from plasticity_lightning.runtime import TickLoader


def test_an_epoch_is_all_ticks_and_the_next_one_too():
    loader = TickLoader(3)
    assert len(loader) == 3
    assert [list(loader), list(loader)] == [[0, 1, 2]] * 2


@pytest.mark.parametrize("given", range(4))
def test_it_goes_on_behind_the_given_ticks(given):
    first, second = TickLoader(3), TickLoader(3)
    iterator = iter(first)
    for _ in range(given):
        next(iterator)
    second.load_state_dict(first.state_dict())
    assert list(second) == list(range(given % 3, 3))
    assert list(second) == [0, 1, 2]


def test_an_epoch_has_a_tick():
    with pytest.raises(ValueError, match="ticks_per_epoch=0"):
        TickLoader(0)
