"""Half the data first, on scikit-learn's digits."""

import pytest
import torch

from plasticity_lightning.data import WarmStartDataModule
from plasticity_lightning.data.errors import DataArgumentError


def stream(**kwargs) -> WarmStartDataModule:
    return WarmStartDataModule(images="digits", limit_train=40, val_size=30, limit_test=20, **kwargs)


def labels_of(data: WarmStartDataModule, epoch: int) -> torch.Tensor:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return torch.cat([y for _, y in loader])


def test_the_first_task_has_the_first_half_twice_an_epoch_and_the_second_has_all():
    data = stream(epochs_per_task=3)
    assert [data.task_of(epoch) for epoch in (0, 2, 3, 100)] == [0, 0, 1, 1]
    true = data.image_data.arrays("train")[1]
    assert torch.equal(labels_of(data, 2).bincount(minlength=10), 2 * true[:20].bincount(minlength=10))
    assert torch.equal(labels_of(data, 3).bincount(minlength=10), true.bincount(minlength=10))


def test_the_control_sees_all_data_from_the_start():
    data = stream(share=1.0)
    assert torch.equal(data.task_rows(0), data.task_rows(1))


def test_validation_and_test_are_those_of_the_data_set():
    data = stream()
    assert sum(len(y) for _, y in data.val_dataloader()) == 30
    assert sum(len(y) for _, y in data.test_dataloader()) == 20


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(DataArgumentError, match=f"share={share}"):
        WarmStartDataModule(share=share)
