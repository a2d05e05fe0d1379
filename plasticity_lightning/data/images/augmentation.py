"""The standard augmentation of CIFAR: random crop after padding by 4 pixels, and random horizontal flip.

Batched tensor operations on images [B, C, H, W] of any type and device. The choices for an image are a function of
(seed, epoch, index of the image) alone, so they depend neither on the batch nor on the number of workers or devices,
and a resumed run makes the same ones.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.
"""

import torch
from torch import Tensor

__all__ = ["AugmentationPlan", "crop_and_flip"]


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int, fill: Tensor) -> Tensor:
    """Cut a window of the original size out of each padded image and mirror the chosen ones.

    Args:
        images: [B, C, H, W], any type.
        top: int64 [B], first row of the window in the padded image, 0..2 * padding (`padding` = unmoved).
        left: int64 [B], first column likewise.
        flip: bool [B], mirror left-right.
        padding: pixels added on each side, at least 0.
        fill: [C], value of the padding in each channel, of the type of `images`.

    Returns:
        Tensor of the shape and type of `images`.
    """
    batch, channels, height, width = images.shape
    padded = fill.view(1, channels, 1, 1).expand(batch, channels, height + 2 * padding, width + 2 * padding).clone()
    padded[:, :, padding : padding + height, padding : padding + width] = images
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    rows_taken = padded.gather(2, rows[:, None, :, None].expand(batch, channels, height, padded.shape[3]))
    return rows_taken.gather(3, columns[:, None, None, :].expand(batch, channels, height, width))


class AugmentationPlan:
    """The random choices of one epoch at a time, for every image of the training set.

    Args:
        n_images: images in the training set.
        seed: seed of all epochs.
        padding: pixels of padding.
    """

    def __init__(self, n_images: int, seed: int, padding: int = 4) -> None:
        self.n_images, self.seed, self.padding = n_images, seed, padding
        self._epoch = -1
        self._choices = torch.empty(0)

    def choices(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """`top`, `left` and `flip` for the images of these indices [B] in this epoch, on the device of `index`."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            shift = torch.randint(0, 2 * self.padding + 1, (2, self.n_images), generator=generator)
            flip = torch.randint(0, 2, (1, self.n_images), generator=generator)
            self._choices, self._epoch = torch.cat([shift, flip]), epoch
        top, left, flip = self._choices.to(index.device)[:, index]
        return top, left, flip.bool()

    def __call__(self, images: Tensor, index: Tensor, epoch: int, fill: Tensor) -> Tensor:
        """Augment a batch: see `crop_and_flip`."""
        top, left, flip = self.choices(index, epoch)
        return crop_and_flip(images, top, left, flip, self.padding, fill)
