"""Noisy inputs: clipped pixels, whole recordings moved and reflected."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.noise import noisy_images, shifted_trains


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pixel_noise_has_its_deviation_and_stays_in_range():
    grey = torch.full((50, 40, 40), 128, dtype=torch.uint8)
    noisy = noisy_images(grey, 10.0, generator())
    assert noisy.dtype == torch.uint8
    assert float(noisy.double().std()) == pytest.approx(10.0, rel=0.02)
    strong = noisy_images(grey, 1000.0, generator())
    assert float(((strong == 0) | (strong == 255)).double().mean()) > 0.85
    assert torch.equal(noisy_images(grey, 0.0, generator()), grey)


def test_floating_point_images_get_the_same_noise_on_their_own_scale():
    grey = torch.full((4, 5, 5), 128, dtype=torch.uint8)
    as_float = noisy_images(grey / 255, 125.0, generator())
    assert torch.allclose(as_float, noisy_images(grey, 125.0, generator()) / 255, atol=0.5001 / 255)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        noisy_images(torch.full((1, 2), 2.0), 1.0, generator())
    with pytest.raises(ValueError, match="std=-1"):
        noisy_images(grey, -1.0, generator())


def test_a_shift_reflects_at_both_ends():
    spikes = torch.zeros(4, 2, 3)
    spikes[0, 0, 1] = spikes[2, 0, 2] = spikes[3, 1, 0] = 1
    moved = shifted_trains(SpikeTrains.from_dense(spikes), torch.tensor([-1, 2])).dense()
    wanted = torch.zeros(4, 2, 3, dtype=torch.uint8)
    # step 0 - 1 reflects to 0, 2 - 1 = 1; 3 + 2 = 5 reflects to 2
    wanted[0, 0, 1] = wanted[1, 0, 2] = wanted[2, 1, 0] = 1
    assert torch.equal(moved, wanted)


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 4))
def test_shifts_keep_samples_and_channels_apart_and_none_is_the_identity(seed, n_steps, n_samples):
    spikes = (torch.rand(n_steps, n_samples, 5, generator=generator(seed)) < 0.3).to(torch.uint8)
    trains = SpikeTrains.from_dense(spikes)
    assert torch.equal(shifted_trains(trains, torch.zeros(n_samples, dtype=torch.int64)).dense(), spikes)
    shift = torch.randint(-20, 20, (n_samples,), generator=generator(seed))
    moved = shifted_trains(trains, shift).dense()
    wanted = torch.zeros_like(spikes)
    for t, b, c in spikes.nonzero().tolist():
        u = t + int(shift[b])
        while not 0 <= u < n_steps:
            u = -1 - u if u < 0 else 2 * n_steps - 1 - u
        wanted[u, b, c] = 1
    assert torch.equal(moved, wanted)


def test_one_shift_a_sample_is_needed():
    with pytest.raises(ValueError, match="B=2"):
        shifted_trains(SpikeTrains.from_dense(torch.zeros(3, 2, 1)), torch.tensor([1]))
