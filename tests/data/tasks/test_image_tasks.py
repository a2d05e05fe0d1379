"""Permuted inputs, on scikit-learn's digits."""

import pytest
import torch

from plasticity_lightning.data import DigitsDataModule, PermutedInputDataModule
from plasticity_lightning.data.errors import DataArgumentError


def stream(**kwargs) -> PermutedInputDataModule:
    return PermutedInputDataModule(images="digits", limit_train=50, limit_test=20, val_size=30, **kwargs)


def test_pixels_move_as_the_permutation_says():
    data = stream()
    rows = torch.tensor([4, 2])
    plain, labels = data.image_data.batch("train", rows)
    permuted, same_labels = data.task_batch(rows, 3)
    assert torch.equal(labels, same_labels)
    order = data.permutation(3).tolist()
    assert sorted(order) == list(range(64))
    for b in range(2):
        expected = [plain[b, 0].flatten()[source].item() for source in order]
        assert permuted[b, 0].flatten().tolist() == expected


def test_permutations_differ_by_task_and_seed_and_repeat_exactly():
    orders = [stream(seed=seed).permutation(task).tolist() for seed, task in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_a_permutation_is_common_to_the_channels():
    images = torch.arange(2 * 3 * 64).view(2, 3, 8, 8)
    permuted = stream().permute(images, 1)
    assert torch.equal(permuted[:, 1] - permuted[:, 0], torch.full((2, 8, 8), 64))


def test_evaluation_follows_the_task_of_the_last_epoch():
    data = stream(epochs_per_task=2)
    data.load_state_dict({"epoch": 5})  # task 2
    images, labels = next(iter(data.test_dataloader()))
    plain, true = data.image_data.batch("test", torch.arange(20))
    assert torch.equal(labels, true)
    assert torch.equal(images, data.permute(plain, 2))
    assert len(next(iter(data.val_dataloader()))[1]) == 30


def test_no_validation_images_no_validation_loader():
    assert PermutedInputDataModule(images="digits", val_size=0).val_dataloader() == []


def test_batches_are_those_of_the_image_data_module():
    rows = torch.tensor([3, 1])
    images, labels = DigitsDataModule(normalize=True).batch("train", rows)
    everything = torch.cat([x for x, _ in DigitsDataModule(normalize=True, shuffle=False).train_dataloader()])
    assert torch.equal(images, everything[rows])
    assert labels.shape == (2,)


def test_an_unknown_data_set_is_refused_with_the_choices():
    with pytest.raises(DataArgumentError, match=r"'svhn'.*'mnist'"):
        PermutedInputDataModule(images="svhn")
