"""From images to spike trains: ink-normalised rate coding, and the ragged container that every engine reads.

An image becomes pulse probabilities p in [0, 1] per 1 ms step: pixels divided by the image's own sum, so that every image has the same
total, then by the largest such value over a whole data set. Each step, pixel i emits a pulse iff p_i > U with U uniform in [0, 1).
U is a pure function of (seed, sample, step, channel), so a sample's pulses do not depend on batches, order, threads or ranks.

Source: Ivanov & Michmizos 2021, data assembly of the published code (`NALSM_SIM_SUPPORT.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticity_lightning.spiking.splitmix import sample_keys

__all__ = ["SpikeTrains", "ink_fraction", "ink_scale", "pulse_probability", "rate_encode", "sample_keys"]


@dataclass(frozen=True)
class SpikeTrains:
    """Events of B samples over T steps and C channels, ragged: `channels[offsets[b*T + t] : offsets[b*T + t + 1]]` fire at step t.

    Args:
        offsets: int64 [B*T + 1], ascending from 0 to the number of events.
        channels: int32 [n_events], in [0, n_channels), ascending and distinct within one step of one sample.
        n_steps: T, in steps of 1 ms.
        n_channels: C.

    Raises:
        ValueError: if the offsets do not describe whole samples or a channel is out of range.
    """

    offsets: Tensor = field(repr=False)
    channels: Tensor = field(repr=False)
    n_steps: int
    n_channels: int

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"n_steps={self.n_steps} must be at least 1")
        if self.offsets.ndim != 1 or (self.offsets.numel() - 1) % self.n_steps:
            raise ValueError(
                f"offsets must have B * n_steps + 1 entries, got {self.offsets.numel()} for n_steps={self.n_steps}"
            )
        if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != self.channels.numel():
            raise ValueError(f"offsets must run from 0 to the number of events {self.channels.numel()}")
        if bool((self.offsets.diff() < 0).any()):
            raise ValueError("offsets must not decrease")
        if self.channels.numel() and not (int(self.channels.min()) >= 0 and int(self.channels.max()) < self.n_channels):
            raise ValueError(f"channels must lie in [0, n_channels={self.n_channels})")

    @property
    def n_samples(self) -> int:
        """B."""
        return (self.offsets.numel() - 1) // self.n_steps

    def dense(self) -> Tensor:
        """The same events as 0/1, uint8 [T, B, C]."""
        frame = torch.repeat_interleave(torch.arange(self.offsets.numel() - 1), self.offsets.diff())
        flat = torch.zeros(self.n_samples * self.n_steps, self.n_channels, dtype=torch.uint8)
        flat[frame, self.channels.long()] = 1
        return flat.view(self.n_samples, self.n_steps, self.n_channels).transpose(0, 1).contiguous()

    @classmethod
    def from_dense(cls, spikes: Tensor) -> SpikeTrains:
        """Ragged form of a 0/1 tensor [T, B, C]."""
        n_steps, n_samples, n_channels = spikes.shape
        flat = spikes.transpose(0, 1).reshape(n_samples * n_steps, n_channels) != 0
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), flat.sum(1).cumsum(0)])
        return cls(offsets, flat.nonzero()[:, 1].int(), n_steps, n_channels)

    def window(self, start: Tensor, n_steps: int) -> SpikeTrains:
        """The `n_steps` steps from `start[b]` on of every sample b; `start` int64 [B], start + n_steps <= T."""
        if n_steps < 1 or bool((start < 0).any()) or bool((start + n_steps > self.n_steps).any()):
            raise ValueError(f"windows of {n_steps} steps must lie inside the {self.n_steps} steps of a sample")
        frames = (torch.arange(self.n_samples) * self.n_steps + start)[:, None] + torch.arange(n_steps)
        return self._frames(frames.reshape(-1), n_steps)

    def select(self, index: Tensor) -> SpikeTrains:
        """The samples at `index`, int64 [K] in [0, B), in that order."""
        if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < self.n_samples):
            raise ValueError(f"index must lie in [0, {self.n_samples}), the samples")
        frames = index[:, None] * self.n_steps + torch.arange(self.n_steps)
        return self._frames(frames.reshape(-1), self.n_steps)

    def _frames(self, frames: Tensor, n_steps: int) -> SpikeTrains:
        """Trains of the given frames (sample * T + step) int64, each sample `n_steps` of them."""
        counts = self.offsets.diff()[frames]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], counts)
        channels = self.channels[torch.repeat_interleave(self.offsets[frames], counts) + within]
        return SpikeTrains(offsets, channels, n_steps, self.n_channels)


def ink_fraction(images: Tensor) -> Tensor:
    """Share of each pixel in its image's total, float64 [B, C], for non-negative images [B, ...]; zero for an image without ink."""
    flat = images.reshape(images.shape[0], -1).double()
    total = flat.sum(1, keepdim=True)
    return torch.where(total > 0, flat / total.clamp_min(1e-300), 0.0)


def ink_scale(images: Tensor, chunk: int = 4096) -> float:
    """Largest `ink_fraction` over a data set: the one number by which its images are divided.

    Raises:
        ValueError: if there is no image, or none with any ink.
    """
    if images.shape[0] == 0:
        raise ValueError("cannot scale an empty set of images")
    scale = max(float(ink_fraction(part).max()) for part in images.split(chunk))
    if scale <= 0:
        raise ValueError(f"none of the {images.shape[0]} images has any ink: every pixel is 0")
    return scale


def pulse_probability(images: Tensor, scale: float) -> Tensor:
    """Pulse probability per 1 ms step, float32 [B, C] in [0, 1]; above 1 (possible with another set's scale) it is clipped."""
    if scale <= 0:
        raise ValueError(f"scale={scale} must be positive")
    return (ink_fraction(images) / scale).clamp_(max=1.0).float()


def rate_encode(probability: Tensor, keys: Tensor, n_steps: int) -> SpikeTrains:
    """Bernoulli pulses: channel i of sample b fires at step t iff `probability[b, i]` > U(keys[b], t, i).

    Args:
        probability: float32 [B, C] in [0, 1].
        keys: int64 [B], see `sample_keys`.
        n_steps: T, at least 1.

    Returns:
        SpikeTrains of B samples.
    """
    from plasticity_lightning.spiking._encoding_kernel import encode  # numba is slow to import, and only needed here

    if probability.ndim != 2 or keys.shape != probability.shape[:1]:
        raise ValueError(f"probability {tuple(probability.shape)} must be [B, C] and keys {tuple(keys.shape)} [B]")
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} must be at least 1")
    offsets, channels = encode(probability.float().contiguous().numpy(), keys.numpy().view("uint64"), n_steps)
    return SpikeTrains(torch.from_numpy(offsets), torch.from_numpy(channels), n_steps, probability.shape[1])
