"""The shift is a crop of the padded image, and the published grid_sample is the same function up to rounding."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.control.augmentation import random_intensity, random_shift, shift_offsets


def crop(images, offsets, pad):
    """Slow: pad, then slice image by image."""
    side = images.shape[-2:]
    padded = F.pad(images.float(), (pad,) * 4, mode="replicate") if pad else images.float()
    rows = [p[:, y : y + side[0], x : x + side[1]] for p, (y, x) in zip(padded, offsets.tolist(), strict=True)]
    return torch.stack(rows).to(images.dtype)


def grid_sample_shift(images, offsets, pad):
    """The published code: bilinear sampling at pixel centres moved by whole pixels."""
    n, _, h, _ = images.shape
    padded = F.pad(images, (pad,) * 4, "replicate")
    eps = 1.0 / (h + 2 * pad)
    line = torch.linspace(-1.0 + eps, 1.0 - eps, h + 2 * pad, dtype=images.dtype)[:h]
    line = line.unsqueeze(0).repeat(h, 1).unsqueeze(2)
    base = torch.cat([line, line.transpose(1, 0)], dim=2).unsqueeze(0).repeat(n, 1, 1, 1)
    shift = offsets.flip(1).reshape(n, 1, 1, 2).to(images.dtype) * (2.0 / (h + 2 * pad))  # x first there
    return F.grid_sample(padded, base + shift, padding_mode="zeros", align_corners=False)


@given(
    n=st.integers(1, 4),
    c=st.integers(1, 3),
    h=st.integers(2, 9),
    w=st.integers(2, 9),
    pad=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_shift_is_a_crop_of_the_padded_image(n, c, h, w, pad, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=generator)
    offsets = shift_offsets(n, pad, generator)
    assert torch.equal(random_shift(images, offsets, pad), crop(images, offsets, pad))


@pytest.mark.parametrize(("side", "pad"), [(84, 4), (48, 4), (24, 2)])
def test_published_grid_sample_is_the_same_function(side, pad):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (8, 9, side, side), generator=generator).double()
    offsets = shift_offsets(8, pad, generator)
    assert (grid_sample_shift(images, offsets, pad) - random_shift(images, offsets, pad)).abs().max() < 1e-9
    f32 = grid_sample_shift(images.float(), offsets, pad) - random_shift(images.float(), offsets, pad)
    assert f32.abs().max() < 0.02  # of 255: float32 grids miss the centres


def test_offsets_cover_the_whole_range_evenly():
    offsets = shift_offsets(90_000, 4, torch.Generator().manual_seed(0))
    counts = torch.bincount(offsets.flatten(), minlength=9)
    assert len(counts) == 9
    assert counts.min() > 20_000 * 0.97  # 180,000 draws over 9 values; 3 % are 4 standard deviations


def test_intensity_by_hand_and_held_at_two_deviations():
    images = torch.full((3, 1, 1, 1), 0.5)
    out = random_intensity(images, torch.tensor([1.0, -1.0, 9.0]), 0.05).flatten()
    assert torch.allclose(out, torch.tensor([0.525, 0.475, 0.55]))
