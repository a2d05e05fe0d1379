"""Noisy versions of inputs, for the approximation rank of a liquid (`measures.kernel`).

Source: Ivanov & Michmizos 2021, published script `compute_SP_AP_kernel_quality_measures.py`: pixel noise for images, one shift in time a
recording for events.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_lightning.spiking.encoding import SpikeTrains

__all__ = ["noisy_images", "shifted_trains"]


def noisy_images(images: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Images with Gaussian noise on every pixel, clipped to their range.

    Args:
        images: [B, ...], uint8 in [0, 255] or floating point in [0, 1].
        std: standard deviation on the scale of 0 to 255, at least 0; the paper's is 125.
        generator: of the noise, on the CPU.

    Returns:
        The same shape and type.

    Raises:
        ValueError: if std is negative, or floating-point images leave [0, 1].
    """
    if not std >= 0:
        raise ValueError(f"std={std} must be at least 0")
    noise = std * torch.randn(images.shape, generator=generator)
    if images.dtype == torch.uint8:
        return (images + noise.to(images.device)).round().clamp(0, 255).to(torch.uint8)
    if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise ValueError(
            f"floating-point images must lie in [0, 1], got {float(images.min())} to {float(images.max())}"
        )
    return (images + noise.to(images) / 255).clamp(0, 1)


def shifted_trains(trains: SpikeTrains, shift: Tensor) -> SpikeTrains:
    """Every sample's events moved in time by the sample's own shift, reflected at both ends.

    Args:
        trains: B samples over T steps.
        shift: int64 [B], in steps; positive is later.

    Returns:
        Trains of the same size; events of one channel that fall on one step become one event.

    Raises:
        ValueError: if there is not one shift a sample.
    """
    if shift.shape != (trains.n_samples,):
        raise ValueError(f"shift must be [B] with B={trains.n_samples} samples; its shape is {tuple(shift.shape)}")
    n_frames, period = trains.n_samples * trains.n_steps, 2 * trains.n_steps
    frame = torch.repeat_interleave(torch.arange(n_frames), trains.offsets.diff())
    sample, step = frame // trains.n_steps, frame % trains.n_steps
    step = (step + shift[sample]) % period
    step = torch.where(step < trains.n_steps, step, period - 1 - step)
    events = ((sample * trains.n_steps + step) * trains.n_channels + trains.channels).unique()
    counts = torch.bincount(events // trains.n_channels, minlength=n_frames)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SpikeTrains(offsets, (events % trains.n_channels).int(), trains.n_steps, trains.n_channels)
