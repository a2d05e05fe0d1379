import ast
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

import plasticity_lightning.data
from plasticity_lightning.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DataArgumentError,
    DataFormatError,
    DataNotFoundError,
    DigitsDataModule,
    FashionMNISTDataModule,
    ImageClassificationDataModule,
    ImageFiles,
    MNISTDataModule,
)
from plasticity_lightning.data.images.augmentation import AugmentationPlan
from tests.data.real_formats import cifar_batch, idx_bytes, tar_gz, write_cifar10_folder, write_idx_set, write_image_zip


class Counting(ImageClassificationDataModule):
    """Twelve training images and four test images of two channels; image i is filled with i."""

    n_classes, image_shape, class_names = 3, (2, 6, 6), ("a", "b", "c")
    mean, std = (0.5, 0.25), (0.5, 0.125)

    def __init__(self, val_size=4, **kwargs):
        super().__init__(val_size=val_size, **kwargs)

    def read(self):
        images = np.tile(np.arange(16, dtype=np.uint8)[:, None, None, None], (1, 2, 6, 6))
        labels = np.arange(16) % 3
        return ImageFiles(images[:12], labels[:12], images[12:], labels[12:])


def firsts(images):
    return images[:, 0, 0, 0].tolist()


def test_splits_follow_the_file_order():
    data = Counting()
    assert firsts(data.arrays("train")[0]) == list(range(8))
    assert firsts(data.arrays("val")[0]) == [8, 9, 10, 11]
    assert firsts(data.arrays("test")[0]) == [12, 13, 14, 15]
    limited = Counting(limit_train=3, limit_val=2, limit_test=1)
    assert [firsts(limited.arrays(s)[0]) for s in ("train", "val", "test")] == [[0, 1, 2], [8, 9], [12]]
    assert firsts(limited.arrays("train_file")[0]) == list(range(12))
    assert firsts(limited.arrays("test_file")[0]) == [12, 13, 14, 15]
    assert limited.arrays("val")[1].tolist() == [2, 0]
    assert limited.arrays("val")[1].dtype == torch.int64


def test_a_batch_is_a_pair_or_a_dict():
    image, label = next(iter(Counting(batch_size=3).val_dataloader()))
    assert image.dtype == torch.float32
    assert torch.allclose(image[:, 1, 5, 5], torch.tensor([8, 9, 10]) / 255)
    assert label.tolist() == [2, 0, 1]
    batch = next(iter(Counting(batch_size=3, dtype="uint8", with_index=True).test_dataloader()))
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "image": (torch.uint8, (3, 2, 6, 6)),
        "label": (torch.int64, (3,)),
        "index": (torch.int64, (3,)),
    }
    assert firsts(batch["image"]) == [12, 13, 14]
    assert batch["index"].tolist() == [0, 1, 2]


def test_normalisation_is_per_channel():
    image, _ = next(iter(Counting(normalize=True).test_dataloader()))
    # image 12: channel 0 (12/255 - 0.5) / 0.5, channel 1 (12/255 - 0.25) / 0.125
    assert image[0, :, 0, 0].tolist() == pytest.approx([(12 / 255 - 0.5) / 0.5, (12 / 255 - 0.25) / 0.125], rel=1e-5)


def test_training_order_changes_with_the_epoch_and_covers_every_image():
    loader = Counting(batch_size=3, with_index=True, seed=1).train_dataloader()

    def epoch(number):
        loader.sampler.set_epoch(number)
        return [i for batch in loader for i in batch["index"].tolist()]

    first, second = epoch(0), epoch(1)
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second
    assert epoch(0) == first
    plain = Counting(batch_size=3, with_index=True, shuffle=False).train_dataloader()
    assert [batch["index"].tolist() for batch in plain] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_workers_give_the_same_batches():
    with_workers, without = (Counting(batch_size=3, num_workers=n).test_dataloader() for n in (1, 0))
    for (image, label), (image2, label2) in zip(with_workers, without, strict=True):
        assert torch.equal(image, image2)
        assert torch.equal(label, label2)


def test_no_validation_at_all():
    data = Counting(val_size=0)
    assert data.val_dataloader() == []
    assert len(data.arrays("train")[1]) == 12


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"val_size": 12}, "val_size=12: the training file has 12 items"),
        ({"val_size": -1}, "val_size=-1"),
        ({"val_size": 1.5}, r"val_size=1\.5"),
        ({"limit_train": 9}, "limit_train=9: that split has only 8"),
        ({"limit_val": 5}, "limit_val=5: that split has only 4"),
        ({"limit_test": -2}, "limit_test=-2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"dtype": "uint8", "normalize": True}, "normalize=True"),
    ],
)
def test_impossible_arguments_are_named(arguments, fault):
    with pytest.raises(DataArgumentError, match=fault):
        Counting(**arguments).setup()


def test_an_unknown_split_is_named():
    with pytest.raises(DataArgumentError, match="split='valid': allowed are 'train', 'val'"):
        Counting().arrays("valid")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"train_labels": np.arange(11) % 3}, "12 images and 11 labels"),
        ({"test_labels": np.arange(4)}, r"0\.\.3; expected int64 0\.\.2"),
        ({"test_images": np.zeros((4, 1, 6, 6), np.uint8)}, r"expected uint8 \(2, 6, 6\)"),
        ({"train_images": np.zeros((12, 2, 6, 6))}, "are float64"),
    ],
)
def test_a_reader_that_returns_nonsense_is_refused(monkeypatch, change, fault):
    good = Counting().read()
    monkeypatch.setattr(Counting, "read", lambda self: good._replace(**change))
    with pytest.raises(DataFormatError, match=fault):
        Counting().setup()


class Watcher(LightningModule):
    """A stranger's module: expects (image, label)."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        image, label = batch
        self.seen.append((self.current_epoch, image, label))
        return self.layer(image.mean((2, 3))).sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def test_augmentation_in_the_trainer_is_seeded_and_touches_training_only(tmp_path):
    data = Counting(batch_size=8, shuffle=False, normalize=True, augment=True, seed=5)
    module = Watcher()
    Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(module, data)
    plain, _ = next(iter(Counting(batch_size=8, shuffle=False, normalize=True).train_dataloader()))
    black = torch.tensor([-0.5 / 0.5, -0.25 / 0.125])  # (0 - mean) / std: what padding must be after normalisation
    assert [epoch for epoch, _, _ in module.seen] == [0, 1]
    for epoch, image, label in module.seen:
        assert torch.equal(image, AugmentationPlan(8, 5)(plain, torch.arange(8), epoch, black))
        assert label.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert not torch.equal(module.seen[0][1], module.seen[1][1])
    for image, _ in module.validated:
        assert torch.equal(image[:, 0], image[:, 0, :1, :1].expand(-1, 6, 6))  # flat, as stored


def test_a_loader_without_a_trainer_says_that_it_does_not_augment(caplog):
    data = Counting(augment=True, shuffle=False)
    image, _ = next(iter(data.train_dataloader()))
    assert torch.equal(image[:, 0], image[:, 0, :1, :1].expand(-1, 6, 6))
    assert "augment=True has no effect on a loader without a Trainer" in caplog.text
    caplog.clear()
    data.val_dataloader()
    assert not caplog.text


def test_mnist_is_read_and_split(folder):
    write_idx_set(folder / "mnist")
    data = MNISTDataModule(root=str(folder), val_size=10, download=False)
    data.prepare_data()
    data.setup("fit")
    assert firsts(data.arrays("val")[0]) == list(range(20, 30))
    assert data.arrays("test")[0].shape == (10, *data.image_shape)
    assert MNISTDataModule().val_size == FashionMNISTDataModule().val_size == 10_000


def test_images_without_ink_are_delivered(folder):
    write_idx_set(folder)  # image 0 of each file is black
    image, _ = next(iter(MNISTDataModule(root=str(folder), val_size=0).test_dataloader()))
    assert image[0].abs().sum() == 0
    assert image.isfinite().all()


def test_mnist_is_not_taken_for_fashion_mnist(folder, monkeypatch):
    write_idx_set(folder)
    labels = hashlib.md5((np.arange(10) % 10).astype(np.uint8).tobytes()).hexdigest()
    monkeypatch.setitem(plasticity_lightning.data.catalogue.TEST_LABEL_FINGERPRINTS, labels, "MNIST")
    MNISTDataModule(root=str(folder), val_size=1).setup()
    with pytest.raises(DataFormatError, match="files of MNIST, not of Fashion-MNIST"):
        FashionMNISTDataModule(root=str(folder), val_size=1).setup()


def test_a_corrupt_file_and_missing_data_reach_the_user(folder):
    with pytest.raises(DataNotFoundError, match="MNIST was not found"):
        MNISTDataModule(root=str(folder), download=False).prepare_data()
    write_idx_set(folder, compress=False)
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataFormatError, match="t10k-images-idx3-ubyte: the file is empty"):
        MNISTDataModule(root=str(folder), val_size=1).setup()
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((10, 27, 28))))
    with pytest.raises(DataFormatError, match=r"\(1, 27, 28\); expected uint8 \(1, 28, 28\)"):
        MNISTDataModule(root=str(folder), val_size=1).setup()


def test_cifar_10_from_all_three_forms(folder, tmp_path, caplog):
    write_image_zip(folder / "cifar10-jpeg.zip")
    jpegs = CIFAR10DataModule(root=str(folder), val_size=10)
    jpegs.setup()
    assert jpegs.data_name == "CIFAR-10 (JPEG)"
    assert "lossy" in caplog.text
    assert sorted(jpegs.arrays("val")[1].tolist()) == list(range(10))  # every class, though it is the end of the file
    batches = write_cifar10_folder(tmp_path / "cifar-10-batches-py")
    tar_gz(batches, folder / "cifar-10-python.tar.gz")
    for root in (folder, tmp_path, batches):
        data = CIFAR10DataModule(root=str(root), val_size=4)
        data.setup()
        assert data.data_name == "CIFAR-10"
        assert firsts(data.arrays("train")[0]) == list(range(16))
        assert firsts(data.arrays("test")[0]) == [100, 101, 102, 103]


def test_cifar_100(folder):
    batches = folder / "cifar-100-python"
    batches.mkdir()
    for i, name in enumerate(("train", "test")):
        (batches / name).write_bytes(pickle.dumps(cifar_batch(5, 100, "fine_labels", 90 * i), protocol=2))
    (batches / "meta").touch()
    data = CIFAR100DataModule(root=str(folder), val_size=1)
    assert firsts(data.arrays("train")[0]) == [0, 1, 2, 3]
    assert data.arrays("test")[1].tolist() == [90, 91, 92, 93, 94]
    assert len(set(data.class_names)) == data.n_classes == 100
    assert list(data.class_names) == sorted(data.class_names)  # the official numbering is alphabetical


def test_digits_are_split_1197_300_300_with_every_class_in_equal_shares():
    from sklearn.datasets import load_digits

    data = DigitsDataModule()
    parts = [data.arrays(split) for split in ("train", "val", "test")]
    assert [len(labels) for _, labels in parts] == [1197, 300, 300]
    for images, labels in parts:
        assert images.shape[1:] == data.image_shape
        counts = labels.bincount(minlength=10)
        # shares of the classes in all 1,797 lie between 174 and 183: 9.7 % to 10.2 %
        assert counts.max() - counts.min() <= 10
        assert (counts / len(labels) - 0.1).abs().max() < 0.01
    together = torch.cat([images for images, _ in parts])
    rows = {(*image.flatten().tolist(),) for image in together}
    stored = {(*row,) for row in np.rint(load_digits().data * 255 / 16).astype(int).tolist()}
    assert rows == stored  # all of them, each pixel 0..16 rescaled to 0..255
    assert together.max() == 255


def test_digits_depend_on_the_split_seed_alone():
    first, again, other = (
        DigitsDataModule(seed=s, split_seed=p).arrays("test")[0] for s, p in ((0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(DataArgumentError, match="split_seed=-1"):
        DigitsDataModule(split_seed=-1)


def test_public_attributes_are_there_before_the_data():
    for cls in (DigitsDataModule, MNISTDataModule, FashionMNISTDataModule, CIFAR10DataModule, CIFAR100DataModule):
        data = cls()
        assert len(data.class_names) == data.n_classes
        assert len(data.image_shape) == 3
        assert len(data.mean) == len(data.std) == data.image_shape[0]


def test_optional_packages_are_imported_only_inside_functions():
    for file in Path(plasticity_lightning.data.__file__).parent.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.partition(".")[0] for n in names} & {"sklearn", "tonic", "PIL", "torchvision"}, file
