"""Classes come in one after another, on scikit-learn's digits."""

import pytest
import torch

from plasticity_lightning.data import ClassIncrementalDataModule
from plasticity_lightning.data.errors import DataArgumentError


def stream(**kwargs) -> ClassIncrementalDataModule:
    return ClassIncrementalDataModule(images="digits", **{"classes_per_task": 4, "limit_train": 300} | kwargs)


def test_a_task_keeps_the_earlier_classes_and_the_last_one_has_all():
    data = stream(epochs_per_task=2)
    assert [data.task_of(epoch) for epoch in (0, 1, 2, 4, 50)] == [0, 0, 1, 2, 2]
    classes = [set(data.classes(task).tolist()) for task in range(3)]
    assert [len(known) for known in classes] == [4, 8, 10]
    assert classes[0] < classes[1] < classes[2]
    labels = data.image_data.arrays("train")[1]
    assert [set(labels[data.task_rows(task)].tolist()) for task in range(3)] == classes
    assert classes != [set(stream(seed=1).classes(task).tolist()) for task in range(3)]


def test_every_epoch_has_the_same_size():
    data = stream(samples_per_epoch=70, batch_size=30)
    assert [len(y) for _, y in data.train_dataloader()] == [30, 30, 10]
    assert sum(len(y) for _, y in stream().train_dataloader()) == 300


def test_the_test_is_on_the_classes_so_far():
    data = stream()
    data.load_state_dict({"epoch": 1})
    labels = torch.cat([y for _, y in data.test_dataloader()])
    assert set(labels.tolist()) == set(data.classes(1).tolist())


@pytest.mark.parametrize("wrong", [{"classes_per_task": 0}, {"classes_per_task": 11}, {"samples_per_epoch": 0}])
def test_arguments_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(DataArgumentError, match=name):
        stream(**wrong)


def test_a_task_without_images_is_refused():
    with pytest.raises(DataArgumentError, match="none of its classes"):
        stream(limit_train=1, classes_per_task=1).task_rows(0)
