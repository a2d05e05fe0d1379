"""ImageNet's folder format, on generated files: listing, splits, crops, workers, resume, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from plasticity_lightning.data import DataArgumentError, DataFormatError, DataNotFoundError, ImageFolderDataModule
from plasticity_lightning.data.images.image_folder import center_box, random_resized_box, read_image

CLASSES = ("n01440764", "n01443537", "n02084071")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Seven training and two validation JPEGs a class, of different sizes; grey level 40 * class + number."""
    folder = tmp_path_factory.mktemp("imagenet")
    for split, n in (("train", 7), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(n):
                size = (48 + 8 * number, 64 - 4 * number)
                image = Image.new("RGB", size, (40 * label + number,) * 3)
                image.save(folder / split / name / f"{name}_{number}.JPEG", quality=95)
    return folder


def module(root, **arguments):
    return ImageFolderDataModule(**{"root": str(root), "image_size": 16, "resize": 20, "num_workers": 0, **arguments})


def labels(loader):
    return [label for _, batch in loader for label in batch.tolist()]


def test_classes_are_folders_in_order_and_take_turns(root):
    data = module(root, batch_size=5, shuffle=False)
    data.setup()
    assert data.class_names == CLASSES
    assert labels(data.train_dataloader()) == [0, 1, 2] * 7
    assert labels(data.test_dataloader()) == labels(data.val_dataloader()) == [0, 1, 2] * 2
    image, _ = next(iter(data.test_dataloader()))
    assert image.dtype == torch.uint8
    assert image.shape == (5, 3, 16, 16)
    # flat images: class 1's second file has grey 41, JPEG may be off by one
    assert abs(int(image[4, 0, 8, 8]) - 41) <= 1


def test_the_end_of_the_training_images_can_validate(root):
    data = module(root, val_size=6, limit_train=9, shuffle=False)
    data.setup()
    assert len(labels(data.train_dataloader())) == 9
    assert labels(data.val_dataloader()) == [0, 1, 2] * 2
    image, _ = next(iter(data.val_dataloader()))
    assert [round(int(grey) % 40) for grey in image[:, 0, 0, 0]] == [5, 5, 5, 6, 6, 6]


def test_the_folder_is_found_below_the_root(root, tmp_path):
    (tmp_path / "ImageNet").symlink_to(root)
    data = module(tmp_path)
    data.setup()
    assert data.class_names == CLASSES


class Batches(LightningModule):
    """Keeps what a Trainer hands over."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def seen(data, tmp_path, epochs=2):
    watcher = Batches()
    Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        limit_val_batches=0,
    ).fit(watcher, datamodule=data)
    return watcher.seen


def test_batches_are_normalised_on_the_device(root, tmp_path):
    images, classes = seen(module(root, augment=False, shuffle=False, batch_size=6), tmp_path, epochs=1)[0]
    assert classes.tolist() == [0, 1, 2, 0, 1, 2]
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        assert float(images[1, channel, 3, 3]) == pytest.approx((40 / 255 - mean) / std, abs=1.1 / 255 / std)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Images whose crops can be told apart."""
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES[:2]:
            (folder / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 255, (30, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def test_augmentation_depends_on_seed_epoch_and_image_and_not_on_the_workers(noisy, tmp_path):
    plain = seen(module(noisy, batch_size=2, seed=3), tmp_path)
    workers = seen(module(noisy, batch_size=2, seed=3, num_workers=2), tmp_path)
    for (a, label_a), (b, label_b) in zip(plain, workers, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(label_a, label_b)
    first, second = plain[:3], plain[3:]
    assert not torch.equal(torch.cat([a for a, _ in first]), torch.cat([a for a, _ in second]))
    other = seen(module(noisy, batch_size=2, seed=4, shuffle=False), tmp_path, epochs=1)
    same_order = seen(module(noisy, batch_size=2, seed=3, shuffle=False), tmp_path, epochs=1)
    assert not torch.equal(other[0][0], same_order[0][0])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_random_boxes_lie_inside_the_image(width, height, seed):
    generator = torch.Generator().manual_seed(seed)
    left, top, right, bottom = random_resized_box(width, height, (0.08, 1.0), (3 / 4, 4 / 3), generator)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_random_boxes_have_the_asked_for_areas_and_shapes():
    generator = torch.Generator().manual_seed(0)
    boxes = [random_resized_box(1000, 1000, (0.1, 0.5), (0.5, 2.0), generator) for _ in range(500)]
    areas = np.array([(r - le) * (b - t) / 1e6 for le, t, r, b in boxes])
    shapes = np.array([math.log((r - le) / (b - t)) for le, t, r, b in boxes])
    assert areas.min() > 0.099
    assert areas.max() < 0.501
    assert areas.mean() == pytest.approx(0.3, abs=0.02)  # uniform in [0.1, 0.5]
    assert np.abs(shapes).max() < math.log(2) + 0.01
    assert shapes.mean() == pytest.approx(0.0, abs=0.06)


def test_an_image_of_an_impossible_shape_is_cut_in_its_centre():
    # 1000 x 10: the largest box of ratio at most 4/3 is 13 x 10
    generator = torch.Generator().manual_seed(0)
    assert random_resized_box(1000, 10, (0.9, 1.0), (3 / 4, 4 / 3), generator) == (493, 0, 506, 10)


def test_the_centre_is_what_resize_and_crop_leave():
    # short side 100 -> 256, cut 224: 87.5 of the original, from (400 - 87.5) / 2
    assert center_box(400, 100, 224, 256) == (156.25, 6.25, 243.75, 93.75)


def test_a_mirrored_image_is_the_mirror_of_the_crop(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    results = [
        read_image(tmp_path / "a.png", 16, 16, ((1.0, 1.0), (1.0, 1.0), torch.Generator().manual_seed(seed)))
        for seed in range(20)
    ]
    whole = pixels.transpose(2, 0, 1)
    mirrored = [np.array_equal(image, whole[:, :, ::-1]) for image in results]
    assert all(flip or np.array_equal(image, whole) for flip, image in zip(mirrored, results, strict=True))
    assert 0 < sum(mirrored) < 20


def test_grey_and_transparent_images_become_rgb(tmp_path):
    Image.new("L", (8, 8), 7).save(tmp_path / "grey.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "grey.png", 4, 4)[:, 0, 0].tolist() == [7, 7, 7]
    assert read_image(tmp_path / "alpha.png", 4, 4)[:, 0, 0].tolist() == [1, 2, 3]


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "bad.JPEG").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    with pytest.raises(DataFormatError, match=r"bad\.JPEG: not a readable image"):
        read_image(tmp_path / "bad.JPEG", 4, 4)


def test_missing_flat_and_unequal_folders_are_told(tmp_path, monkeypatch):
    monkeypatch.delenv("PLASTICITY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataNotFoundError, match="train/CLASS/"):
        module(tmp_path / "nowhere").setup()
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / split / "a.JPEG")
    with pytest.raises(DataFormatError, match="holds no class folders"):
        module(tmp_path).setup()
    for split, name in (("train", "dog"), ("val", "cat")):
        (tmp_path / split / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / split / name / "a.JPEG")
    with pytest.raises(DataFormatError, match=r"only in one of them: \['cat', 'dog'\]"):
        module(tmp_path).setup()
    (tmp_path / "val" / "empty").mkdir()
    with pytest.raises(DataFormatError, match="empty: holds no image"):
        module(tmp_path).setup()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"image_size": 30}, "image_size=30: must lie between 1 and resize=20"),
        ({"scale": (0.0, 1.0)}, "scale="),
        ({"ratio": (2.0, 1.0)}, "ratio="),
        ({"std": (0.0, 1.0, 1.0)}, "std="),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_impossible_arguments_are_named(arguments, fault):
    with pytest.raises(DataArgumentError, match=fault):
        module("anywhere", **arguments)
