import numpy as np
import pytest
import torch

from plasticity_lightning.data import DataArgumentError, EmulatedNMNISTDataModule, EventCamera, NMNISTDataModule
from plasticity_lightning.data.events.event_camera import record, saccade_path
from tests.data.real_formats import write_idx_set

IDEAL = EventCamera(threshold_sigma=0, noise_rate_hz=0, refractory_us=0)


def a_digit():
    """A bright ring, roughly the ink of a zero."""
    y, x = np.mgrid[:28, :28] - 13.5
    return torch.from_numpy((np.abs(np.hypot(y, 1.4 * x) - 8) < 1.5).astype(np.uint8) * 255)[None]


def table(events):
    return np.stack(events, 1)


def test_path_is_a_centred_closed_triangle_with_rest_at_its_corners():
    path = saccade_path(100)
    assert path.shape == (301, 2)
    corners = path[[0, 100, 200, 300]] + 3.5
    assert np.allclose(corners, [(0, 0), (7, 3.5), (0, 7), (0, 0)])
    speed = np.hypot(*np.diff(path, axis=0).T)
    # half a cosine: the middle of the first saccade moves pi/2 times faster than the mean, hypot(7, 3.5)/100 a ms
    assert speed[49:51].mean() == pytest.approx(np.pi / 2 * np.hypot(7, 3.5) / 100, rel=1e-3)
    assert speed[[0, 99, 100, 199, 200, 299]].max() < 0.01


@pytest.mark.parametrize("value", [0, 255])
def test_a_flat_image_that_fills_nothing_gives_no_event(value):
    image = torch.full((1, 34, 34), value, dtype=torch.uint8)
    events = record(image, np.array([0]), 0, EventCamera(image_size=34, threshold_sigma=0.1, noise_rate_hz=0))
    if value == 0:
        assert len(events.t) == 0
    else:  # only the edge of the image, where it moves over the border of the sensor, is seen
        assert ((events.x < 4) | (events.x > 29) | (events.y < 4) | (events.y > 29)).all()


@pytest.mark.parametrize("saccade_ms", [100, 1])  # 1: all four thresholds are crossed within one step
def test_number_of_events_of_a_bar_equals_the_crossed_thresholds(saccade_ms):
    # The left half is white. A pixel that goes from black to white changes its log intensity by
    # log(1.1 / 0.1) = 2.3979: with a threshold of 0.49 that is floor(4.89) = 4 ON events, which leave its reference
    # 4 * 0.49 = 1.96 above black; back at black that is 4 OFF events. The edge lies at column 13.5 at the start
    # (3.5 pixels left of 17), at 20.5 after saccade 2, and returns in saccade 3: columns 14..19 see both.
    image = torch.zeros(1, 34, 34, dtype=torch.uint8)
    image[:, :, :17] = 255
    events = record(image, np.array([0]), 0, EventCamera(0.49, 0, 0.1, 0, 0, saccade_ms, 34))
    middle = events.y == 17
    for column in range(14, 20):
        here = middle & (events.x == column)
        assert events.p[here].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
        assert (events.t[here & (events.p == 1)] <= 2000 * saccade_ms).all()
        assert (events.t[here & (events.p == 0)] >= 2000 * saccade_ms).all()


def test_events_are_interpolated_within_the_millisecond():
    times = record(a_digit(), np.array([0]), 0, IDEAL).t
    assert len(np.unique(times % 1000)) > 200
    assert times.min() >= 0
    assert times.max() <= 300_000


def test_refractory_time_is_kept():
    events = record(a_digit(), np.array([0]), 0, EventCamera(0.1, 0, 0.1, refractory_us=3000, noise_rate_hz=0))
    shortest = []
    for pixel in np.unique(events.y * 34 + events.x):
        times = np.sort(events.t[events.y * 34 + events.x == pixel])
        shortest += np.diff(times).tolist()
    assert min(shortest) >= 3000
    free = record(a_digit(), np.array([0]), 0, EventCamera(0.1, 0, 0.1, refractory_us=0, noise_rate_hz=0))
    assert len(free.t) > len(events.t)


def test_a_recording_depends_on_seed_and_key_but_not_on_its_batch():
    images = a_digit().repeat(3, 1, 1)
    camera = EventCamera()
    together = table(record(images, np.array([7, 8, 9]), 1, camera))
    alone = table(record(images[:1], np.array([8]), 1, camera))
    assert np.array_equal(together[together[:, 0] == 1][:, 1:], alone[:, 1:])
    for keys, seed in (([9], 1), ([8], 2)):
        assert not np.array_equal(table(record(images[:1], np.array(keys), seed, camera)), alone)


def test_noise_has_the_chosen_rate():
    black = torch.zeros(20, 28, 28, dtype=torch.uint8)
    events = record(black, np.arange(20), 0, EventCamera(noise_rate_hz=1))
    # 20 recordings * 1156 pixels * 0.3 s * 1 Hz = 6936 expected, Poisson: five standard deviations are 416
    assert abs(len(events.t) - 6936) < 416
    assert abs(events.p.mean() - 0.5) < 0.05
    assert (np.diff(events.sample) >= 0).all()
    assert (np.diff(events.t)[np.diff(events.sample) == 0] >= 0).all()


def test_a_digit_gives_thousands_of_events_of_both_polarities_in_three_bursts():
    events = record(a_digit(), np.array([0]), 0, EventCamera())
    assert 2000 < len(events.t) < 8000  # N-MNIST: about 4,000
    assert 0.4 < events.p.mean() < 0.6
    rate = np.bincount(np.minimum(events.t // 10_000, 29), minlength=30)
    for corner in (10, 20):  # the camera rests at the ends of the saccades
        assert rate[corner - 1 : corner + 1].max() < rate.max() / 3


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"contrast_threshold": 0}, "contrast_threshold=0"),
        ({"log_offset": float("nan")}, "log_offset=nan"),
        ({"noise_rate_hz": -1}, "noise_rate_hz=-1"),
        ({"refractory_us": -1}, "refractory_us=-1"),
        ({"saccade_ms": 0}, "saccade_ms=0"),
        ({"image_size": 35}, "image_size=35"),
    ],
)
def test_impossible_cameras_are_refused(arguments, fault):
    with pytest.raises(DataArgumentError, match=fault):
        EventCamera(**arguments)


def test_data_module_batches_and_export_to_the_real_format(folder):
    write_idx_set(folder / "mnist", n_train=6, n_test=2)
    emulated = EmulatedNMNISTDataModule(root=str(folder), val_size=2, batch_size=4, shuffle=False, download=False)
    emulated.prepare_data()
    assert [emulated.export(folder / "nmnist", split) for split in ("train", "val", "test")] == [4, 2, 2]
    real = NMNISTDataModule(root=str(folder), val_size=2, batch_size=4, shuffle=False)
    for split in ("train", "val", "test"):
        (ours,), (theirs,) = (getattr(data, f"{split}_dataloader")() for data in (emulated, real))
        assert ours["label"].tolist() == theirs["label"].tolist()
        assert ours["events"].offsets.tolist() == theirs["events"].offsets.tolist()
        assert ours["events"].channels.tolist() == theirs["events"].channels.tolist()
        assert ours["events"].channels.numel() > 0
    train, test = (emulated.events(split, np.array([0])) for split in ("train", "test"))  # both images are black
    assert not np.array_equal(train.t, test.t)


def test_digits_are_enlarged_and_limits_apply():
    data = EmulatedNMNISTDataModule(images="digits", limit_train=2, shuffle=False)
    (batch,) = data.train_dataloader()
    assert len(batch["label"]) == 2
    assert batch["events"].channels.numel() > 1000
    assert len(data.labels("val")) == len(data.labels("test")) == 300


def test_wrong_images_and_seed_are_named():
    with pytest.raises(DataArgumentError, match="images='cifar'"):
        EmulatedNMNISTDataModule(images="cifar")
    with pytest.raises(DataArgumentError, match="camera_seed=-1"):
        EmulatedNMNISTDataModule(camera_seed=-1)
