"""Tasks, their order and their batches are functions of (seed, epoch), on one process and on several."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plasticity_lightning.data import TaskStream
from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.tasks.task_stream import named_generator
from plasticity_lightning.protocols import HasTasks


class Numbers(TaskStream):
    """Sample = row, target = task; task t owns the rows below `sizes[t]`."""

    def __init__(self, sizes: tuple[int, ...] = (7, 7, 7), **kwargs: int) -> None:
        super().__init__(**kwargs)
        self.sizes = sizes

    @property
    def n_rows(self) -> int:
        return max(self.sizes)

    def task_rows(self, task: int) -> Tensor:
        return torch.arange(self.sizes[task])

    def task_batch(self, rows: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return rows, torch.full_like(rows, task)


def epoch_of(stream: TaskStream, epoch: int) -> tuple[list[int], list[int]]:
    loader = stream.train_dataloader()
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return torch.cat([x for x, _ in batches]).tolist(), torch.cat([y for _, y in batches]).tolist()


def test_an_epoch_gives_every_row_of_its_task_once_in_an_order_of_its_own():
    stream = Numbers(epochs_per_task=2, batch_size=3)
    rows, tasks = zip(*(epoch_of(stream, epoch) for epoch in range(4)), strict=True)
    assert [set(task) for task in tasks] == [{0}, {0}, {1}, {1}]
    assert all(sorted(order) == list(range(7)) for order in rows)
    assert len({tuple(order) for order in rows}) == 4


def test_a_narrow_task_fills_the_epoch_by_repeating_its_rows_equally_often():
    rows, _ = epoch_of(Numbers(sizes=(4, 8)), 0)
    assert sorted(rows) == sorted([0, 1, 2, 3] * 2)
    assert sorted(rows[:4]) == [0, 1, 2, 3]  # a whole pass before any row comes again
    rows, tasks = epoch_of(Numbers(sizes=(4, 8)), 1)
    assert sorted(rows) == list(range(8))
    assert set(tasks) == {1}


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 2))
def test_order_depends_on_seed_and_epoch_alone(seed, epoch):
    sizes = (30, 30, 30)
    first, again, other = (Numbers(sizes, seed=s) for s in (seed, seed, seed + 1))
    list(again.train_dataloader())  # what was read before does not matter
    assert epoch_of(first, epoch) == epoch_of(again, epoch)
    assert epoch_of(first, epoch) != epoch_of(other, epoch)


def test_the_epoch_survives_state_and_a_new_loader():
    stream = Numbers()
    epoch_of(stream, 2)
    assert stream.state_dict() == {"epoch": 2}
    resumed = Numbers()
    resumed.load_state_dict(stream.state_dict())
    assert resumed.epoch == 2
    assert next(iter(resumed.train_dataloader()))[1][0] == 2


def test_generators_differ_by_name_and_number():
    draws = {
        int(torch.randint(2**40, (1,), generator=named_generator(*name)))
        for name in [("labels", 0, 1), ("labels", 1, 0), ("order", 0, 1), ("labels", 0, 11)]
    }
    assert len(draws) == 4


def test_a_stream_is_what_a_continual_learner_asks_for():
    assert isinstance(Numbers(), HasTasks)


@pytest.mark.parametrize("wrong", [{"epochs_per_task": 0}, {"batch_size": 0}, {"seed": -1}])
def test_arguments_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(DataArgumentError, match=name):
        Numbers(**wrong)
