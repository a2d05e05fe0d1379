"""A simulated event camera that turns a static image into a recording like those of N-MNIST.

The image is centred on the sensor and moved, with sub-pixel steps, along a triangle of three saccades, as the camera
moved in front of a monitor for N-MNIST: (3.5 right, 7 down), (3.5 right, 7 up), (7 left) pixels. Each pixel remembers
the log intensity of its last event and emits an ON (OFF) event whenever the intensity has risen (fallen) by its
contrast threshold; thresholds vary between pixels, a refractory time drops events that follow too closely, and
background noise adds some. This is an emulation: results on it must never be reported as N-MNIST.

Sources: path of the saccades from Orchard et al. 2015 (and the authors' stabilisation script); pixel model as in
Rebecq et al. 2018, "ESIM: an Open Event Camera Simulator", section 3.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.events.event_batches import Events

__all__ = ["EventCamera", "record", "saccade_path"]

_CORNERS = ((0.0, 0.0), (7.0, 3.5), (0.0, 7.0), (0.0, 0.0))  # (down, right) displacement at the ends of the saccades


@dataclass(frozen=True)
class EventCamera:
    """Parameters of the simulated camera. The defaults give about as many events on MNIST as N-MNIST has.

    Args:
        contrast_threshold: change of log intensity for one event, above 0.
        threshold_sigma: spread of the thresholds between pixels and polarities: each is multiplied by
            exp(sigma * z), z standard normal; at least 0.
        log_offset: added to the intensity (0..1) before the logarithm, above 0; smaller = more sensitive in the dark.
        refractory_us: least time between two events of a pixel, in microseconds, at least 0.
        noise_rate_hz: background events per pixel and second, at least 0.
        saccade_ms: duration of each of the three saccades, in ms, at least 1.
        image_size: images of another size are resized to this many pixels (bilinear), 1..34.

    Raises:
        DataArgumentError: if a value is out of range.
    """

    contrast_threshold: float = 0.5
    threshold_sigma: float = 0.05
    log_offset: float = 0.1
    refractory_us: int = 1000
    noise_rate_hz: float = 0.1
    saccade_ms: int = 100
    image_size: int = 28

    sensor_size = 34  # pixels, height and width, of the recordings of N-MNIST

    def __post_init__(self) -> None:
        for name in ("contrast_threshold", "log_offset"):
            if not 0 < getattr(self, name) < math.inf:
                raise DataArgumentError(f"{name}={getattr(self, name)}: must be above 0.")
        for name in ("threshold_sigma", "refractory_us", "noise_rate_hz"):
            if not 0 <= getattr(self, name) < math.inf:
                raise DataArgumentError(f"{name}={getattr(self, name)}: must be at least 0.")
        if self.saccade_ms < 1:
            raise DataArgumentError(f"saccade_ms={self.saccade_ms}: must be at least 1.")
        if not 1 <= self.image_size <= self.sensor_size:
            raise DataArgumentError(f"image_size={self.image_size}: must be 1 to {self.sensor_size} pixels.")


def saccade_path(saccade_ms: int) -> np.ndarray:
    """Displacement of the image in pixels at every millisecond.

    Each saccade starts and ends at rest (half a cosine); the path is a closed triangle, centred on the sensor.

    Args:
        saccade_ms: duration of one saccade, at least 1.

    Returns:
        float64 [3 * saccade_ms + 1, 2]: (down, right).
    """
    ease = (1 - np.cos(np.pi * np.arange(1, saccade_ms + 1) / saccade_ms)) / 2
    corners = np.array(_CORNERS)
    legs = [start + ease[:, None] * (end - start) for start, end in itertools.pairwise(corners)]
    return np.concatenate([corners[:1], *legs]) - np.array([3.5, 3.5])


def record(images: Tensor, keys: np.ndarray, seed: int, camera: EventCamera) -> Events:
    """Record a batch of images.

    Args:
        images: uint8 [B, H, W], 0 = black; resized to `camera.image_size` if they have another size.
        keys: int64 [B], at least 0; thresholds and noise of a recording are a function of (seed, its key) alone.
        seed: at least 0.
        camera: parameters.

    Returns:
        Events sorted by (sample, t); t in 0..3 * 1000 * saccade_ms microseconds.
    """
    path = saccade_path(camera.saccade_ms)
    canvas, margin = _canvas(images, camera)
    on, off, noise = _pixel_properties(keys, seed, camera)
    size = camera.sensor_size
    previous = _log_frame(canvas, margin, path[0], camera).flatten()
    reference = previous.clone()
    last_event = torch.full_like(previous, -math.inf, dtype=torch.float64)  # microseconds
    columns: list[Tensor] = []
    for step, displacement in enumerate(path[1:]):
        current = _log_frame(canvas, margin, displacement, camera).flatten()
        change = current - reference
        pixel = torch.nonzero((change >= on) | (change <= -off)).squeeze(1)
        if len(pixel):
            columns += _crossings(pixel, step, change, previous, current, reference, on, off, last_event, camera)
        previous = current
    fired = torch.cat(columns, 1).numpy() if columns else np.empty((3, 0), np.int64)
    sample, place = np.divmod(fired[0], size * size)
    y, x = np.divmod(place, size)
    signal = Events(sample, x, y, fired[1], fired[2])
    joined = Events(*(np.concatenate(pair) for pair in zip(signal, noise, strict=True)))
    order = np.lexsort((joined.t, joined.sample))
    return Events(*(column[order] for column in joined))


def _canvas(images: Tensor, camera: EventCamera) -> tuple[Tensor, int]:
    """Intensities 0..1 [B, S, S] on a black canvas with a margin around the sensor for the motion."""
    pixels = images.float()[:, None] / 255
    side = camera.image_size
    if pixels.shape[2:] != (side, side):
        pixels = interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
    margin = 5  # 3.5 pixels of motion and one of interpolation
    before = margin + (camera.sensor_size - side) // 2
    after = camera.sensor_size + 2 * margin - side - before
    return pad(pixels[:, 0], (before, after, before, after)), margin


def _log_frame(canvas: Tensor, margin: int, displacement: np.ndarray, camera: EventCamera) -> Tensor:
    """Log intensity on the sensor [B, S, S], the canvas being moved by (down, right) pixels; bilinear."""
    size = camera.sensor_size
    top, left = margin - float(displacement[0]), margin - float(displacement[1])
    row, column = math.floor(top), math.floor(left)
    down, right = top - row, left - column
    rows = canvas[:, row : row + size] * (1 - down) + canvas[:, row + 1 : row + 1 + size] * down
    frame = rows[:, :, column : column + size] * (1 - right) + rows[:, :, column + 1 : column + 1 + size] * right
    return frame.add_(camera.log_offset).log_()


def _pixel_properties(keys: np.ndarray, seed: int, camera: EventCamera) -> tuple[Tensor, Tensor, Events]:
    """ON and OFF thresholds [B * S * S] and the noise events, from one generator per recording."""
    size = camera.sensor_size
    thresholds = np.empty((2, len(keys), size * size), np.float32)
    duration_us = 3000 * camera.saccade_ms
    mean_noise = camera.noise_rate_hz * size * size * duration_us * 1e-6
    noise = []
    for sample, key in enumerate(keys):
        generator = np.random.default_rng([seed, int(key)])
        spread = generator.standard_normal((2, size * size))
        thresholds[:, sample] = camera.contrast_threshold * np.exp(camera.threshold_sigma * spread)
        n = generator.poisson(mean_noise)
        y, x = generator.integers(0, size, (2, n))
        t, p = generator.integers(0, duration_us, n), generator.integers(0, 2, n)
        noise.append(np.stack([np.full(n, sample), x, y, t, p]))
    on, off = torch.from_numpy(thresholds.reshape(2, -1))
    return on, off, Events(*(np.concatenate(noise, 1) if noise else np.empty((5, 0), np.int64)))


def _crossings(
    pixel: Tensor,
    step: int,
    change: Tensor,
    previous: Tensor,
    current: Tensor,
    reference: Tensor,
    on: Tensor,
    off: Tensor,
    last_event: Tensor,
    camera: EventCamera,
) -> list[Tensor]:
    """Events of the pixels that crossed a threshold in this millisecond: int64 [3, n] (pixel, t, p) per crossing.

    A pixel whose intensity moved by k thresholds crosses k levels, at times interpolated linearly within the step.
    Updates `reference` and `last_event` in place; an event dropped as refractory still moves the reference (ESIM).
    """
    change, start = change[pixel], previous[pixel]
    positive = change > 0
    signed = torch.where(positive, on[pixel], -off[pixel])
    level, slope = reference[pixel], current[pixel] - start
    crossings = (change / signed).floor()
    reference[pixel] = level + crossings * signed
    columns = []
    for k in range(1, int(crossings.max()) + 1):
        here = crossings >= k
        fraction = ((level[here] + k * signed[here] - start[here]) / slope[here]).clamp(0, 1)
        t = ((step + fraction.double()) * 1000).round()
        alive = t - last_event[pixel[here]] >= camera.refractory_us
        fired = pixel[here][alive]
        last_event[fired] = t[alive]
        columns.append(torch.stack([fired, t[alive].long(), positive[here][alive].long()]))
    return columns
