"""The gate of weights: invariants hold when it closes, whoever wrote, in any order, and the registry forgets."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from plasticity_lightning.runtime import changing_weights, hold_invariant


def net():
    return nn.Sequential(nn.Linear(2, 2, bias=False), nn.Sequential(nn.Linear(2, 2, bias=False)))


def test_an_invariant_is_restored_when_the_gate_closes_and_not_before():
    module, calls = net(), []
    hold_invariant(module, calls.append)
    weight = module[0].weight
    with changing_weights(module, [weight]):
        assert calls == []
    assert len(calls) == 1
    assert calls[0][0] is weight
    with changing_weights(module):
        pass
    assert calls[1] is None  # any weight may have changed


def test_of_nested_gates_the_outermost_counts_and_the_hints_add_up():
    module, calls = net(), []
    hold_invariant(module, calls.append)
    with changing_weights(module, [module[0].weight]):
        with changing_weights(module[1], [module[1][0].weight]):
            pass
        assert calls == []
    assert [id(t) for t in calls[0]] == [id(module[0].weight), id(module[1][0].weight)]
    with changing_weights(module, [module[0].weight]), changing_weights(module):
        pass
    assert calls[1] is None


@pytest.mark.parametrize(("held", "written"), [("whole", "part"), ("part", "whole")])
def test_a_gate_on_a_part_reaches_the_whole_and_the_other_way_round(held, written):
    module, calls = net(), []
    modules = {"whole": module, "part": module[1]}
    hold_invariant(modules[held], calls.append)
    with changing_weights(modules[written]):
        pass
    assert len(calls) == 1
    with changing_weights(net()), changing_weights(module[0]):  # a stranger, and a part beside it
        pass
    assert len(calls) == (2 if held == "whole" else 1)


def test_invariants_are_restored_after_an_exception_too():
    module, calls = net(), []
    hold_invariant(module, calls.append)
    with pytest.raises(RuntimeError, match="half way"), changing_weights(module):
        raise RuntimeError("half way")
    assert len(calls) == 1
    with changing_weights(module):
        pass
    assert len(calls) == 2


@pytest.mark.parametrize("order", [0, 1])
def test_a_copy_of_a_masked_weight_settles_in_any_order_of_registration(order):
    module = net()
    first, second = module[0].weight, module[1][0].weight
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    def tie(changed):
        with changing_weights(module):  # who restores may write through the gate, without end
            second.copy_(first.T)

    invariants = [lambda changed: first.mul_(mask), tie]
    for restore in invariants[::-1] if order else invariants:
        hold_invariant(module, restore)
    with torch.no_grad(), changing_weights(module):
        first.fill_(3.0)
    assert first.tolist() == [[3, 0], [0, 3]]
    assert torch.equal(second, first.T)


def test_a_removed_handle_is_called_no_more():
    module, calls = net(), []
    handle = hold_invariant(module, calls.append)
    handle.remove()
    with changing_weights(module):
        pass
    assert calls == []


def test_copies_of_a_module_have_no_holders_and_the_registry_keeps_no_module_alive():
    module, calls = net(), []
    hold_invariant(module, calls.append)
    with changing_weights(copy.deepcopy(module)):
        pass
    assert calls == []
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def test_gates_of_two_threads_do_not_wait_for_each_other():
    module, calls = net(), []
    hold_invariant(module, calls.append)

    def other():
        with changing_weights(module):
            pass

    with changing_weights(module):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(calls) == 1
    assert len(calls) == 2
