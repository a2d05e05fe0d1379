"""Augmentation of frames: the random shift of DrQ and the random intensity of its variant for Atari.

Images are [B, C, H, W]; every image of a batch gets its own draw, all channels (and so all stacked frames) the same.
Offsets and factors are arguments, so that a caller draws them from its own generator.

Sources: Kostrikov et al. 2020 (DrQ), Yarats et al. 2021 (DrQ-v2); Agarwal et al. 2021 (DrQ(eps)).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_intensity", "random_shift", "shift_offsets"]


def shift_offsets(batch: int, pad: int, generator: torch.Generator | None = None) -> Tensor:
    """Offsets (rows, columns) int64 [B, 2], uniform in 0..2 pad."""
    return torch.randint(0, 2 * pad + 1, (batch, 2), generator=generator)


def random_shift(images: Tensor, offsets: Tensor, pad: int) -> Tensor:
    """Crop each image at its offset from the image padded by repeating its edge.

    The published code interpolates bilinearly on a grid of shifted pixel centres, which is this crop up to rounding.

    Args:
        images: [B, C, H, W] of any type.
        offsets: int64 [B, 2] in 0..2 pad, as from `shift_offsets`; `pad` for both leaves an image as it is.
        pad: pixels, at least 0.

    Returns:
        As `images`, in channels-last memory.
    """
    height, width = images.shape[-2:]
    # row y of the crop is row y + offset - pad of the image, held at the edge: no padded copy is made
    rows = (torch.arange(height, device=images.device) + offsets[:, :1] - pad).clamp_(0, height - 1)
    columns = (torch.arange(width, device=images.device) + offsets[:, 1:] - pad).clamp_(0, width - 1)
    batch = torch.arange(len(images), device=images.device)
    last = images.permute(0, 2, 3, 1)  # [B, H, W, C]: one gather of whole pixels
    return last[batch[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_intensity(images: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Multiply each image by 1 + scale * noise, the noise held within [-2, 2].

    Args:
        images: float [B, C, H, W], not centred: black stays black.
        noise: standard normal numbers [B].
        scale: 0.05 in the published settings.
    """
    return images * (1 + scale * noise.clamp(-2, 2))[:, None, None, None].to(images.dtype)
