"""Function modes and compiler stances that are left in any order."""

import itertools

import pytest
import torch
from torch._dynamo import eval_frame
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from plasticity_lightning.runtime.overlap import EagerExecution, hold, release, suspended, unobserved


class Seen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_modes_leave_in_any_order_and_only_those_that_are_held_see(order):
    modes = [Seen() for _ in range(3)]
    for mode in modes:
        hold(mode)
    for position, leaving in enumerate(order):
        release(modes[leaving])
        torch.ones(1).relu()
        for other, mode in enumerate(modes):
            assert mode.names.count("relu") == max(0, min(position + 1, order.index(other)))
        assert _get_current_function_mode_stack() == [m for i, m in enumerate(modes) if order.index(i) > position]


@pytest.mark.parametrize("first_out", [0, 1])
def test_compiled_code_is_eager_until_the_last_has_left(first_out):
    contexts = [EagerExecution(), EagerExecution()]
    before = eval_frame._stance
    for context in contexts:
        hold(context)
    release(contexts[first_out])
    assert eval_frame._stance.stance == "force_eager"
    release(contexts[1 - first_out])
    assert eval_frame._stance == before


def test_a_suspended_block_is_outside_all_and_they_come_back_even_after_an_error():
    outer, inner = Seen(), Seen()
    hold(outer)
    hold(inner)
    other = Seen()

    @suspended()
    def fails():
        hold(other)
        torch.ones(1).relu()
        release(other)
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert _get_current_function_mode_stack() == [outer, inner]
    release(outer)
    release(inner)
    assert other.names.count("relu") == 1
    assert "relu" not in outer.names + inner.names


def test_no_mode_sees_what_is_unobserved_even_below_another():
    class Measuring(Seen):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = super().__torch_function__(func, types, args, kwargs)
            with unobserved():
                out.exp()
            return out

    below, above = Seen(), Measuring()
    with below, above:
        torch.ones(1).relu()
    assert "exp" not in below.names + above.names
    assert below.names.count("relu") == 1


def test_what_is_not_held_cannot_be_released():
    with pytest.raises(ValueError, match="not held"):
        release(Seen())
