"""From ink to pulses: rates against exact binomial bounds, and pulses that depend on seed, sample, step and channel alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from plasticity_lightning.spiking.encoding import (
    SpikeTrains,
    ink_fraction,
    ink_scale,
    pulse_probability,
    rate_encode,
    sample_keys,
)


def within(successes: int, trials: int, probability: float, n_tests: int) -> bool:
    """Whether the count lies where a binomial one does, but for one family of `n_tests` counts in a million."""
    level = 1e-6 / n_tests
    return bool(binom.ppf(level / 2, trials, probability) <= successes <= binom.isf(level / 2, trials, probability))


def images(n: int = 6, size: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_a_pixels_share_of_its_images_ink_by_hand() -> None:
    two = torch.tensor([[[1, 3], [0, 4]], [[10, 10], [10, 10]]], dtype=torch.uint8)
    assert ink_fraction(two).tolist() == [[0.125, 0.375, 0.0, 0.5], [0.25] * 4]
    assert ink_scale(two) == 0.5
    # divided by the largest share of the data set, here another one's: 0.25, and clipped at 1
    assert pulse_probability(two, 0.25).tolist() == [[0.5, 1.0, 0.0, 1.0], [1.0] * 4]


@given(st.integers(0, 99), st.integers(1, 7))
def test_the_scale_is_the_largest_share_whatever_the_chunks(seed: int, chunk: int) -> None:
    some = images(seed=seed)
    assert ink_scale(some, chunk) == float(ink_fraction(some).max())


def test_pulses_come_at_the_rate_of_the_ink_and_brightness_does_not_matter() -> None:
    bright = images()
    probability = pulse_probability(bright, ink_scale(bright))
    n_steps = 4000
    trains = rate_encode(probability, sample_keys(0, torch.arange(6)), n_steps)
    counts = trains.dense().sum(0, dtype=torch.int64)
    for count, p in zip(counts.flatten().tolist(), probability.flatten().tolist(), strict=True):
        assert within(count, n_steps, p, counts.numel()), (count, p)
    dark = pulse_probability((bright // 2) * 2 / 4, ink_scale((bright // 2) * 2))
    half = pulse_probability((bright // 2) * 2, ink_scale((bright // 2) * 2))
    assert torch.equal(dark, half)  # a quarter of the brightness, exactly the same pulses


def test_every_image_has_the_same_expected_number_of_pulses() -> None:
    some = images()
    scale = ink_scale(some)
    totals = pulse_probability(some, scale).double().sum(1)
    # sum over pixels of share / scale, shares adding up to 1
    assert totals.tolist() == pytest.approx([1 / scale] * 6, rel=1e-6)


def test_never_at_probability_0_and_always_at_1() -> None:
    dense = rate_encode(torch.tensor([[0.0, 1.0, 0.5]]), sample_keys(0, torch.arange(1)), 300).dense()[:, 0]
    assert int(dense[:, 0].sum()) == 0
    assert int(dense[:, 1].sum()) == 300
    assert within(int(dense[:, 2].sum()), 300, 0.5, 1)


@given(st.permutations(range(6)), st.integers(0, 10_000), st.integers(1, 6))
def test_a_samples_pulses_depend_neither_on_its_batch_nor_on_its_place_in_it(
    order: list[int], seed: int, cut: int
) -> None:
    probability = pulse_probability(images(), 0.1)
    index = torch.arange(100, 106)
    whole = rate_encode(probability, sample_keys(seed, index), 20).dense()
    at = torch.tensor(order)
    for part in at.split(cut):
        assert torch.equal(rate_encode(probability[part], sample_keys(seed, index[part]), 20).dense(), whole[:, part])


def test_a_longer_simulation_begins_like_a_shorter_one() -> None:
    probability, keys = pulse_probability(images(), 0.1), sample_keys(3, torch.arange(6))
    assert torch.equal(rate_encode(probability, keys, 30).dense()[:12], rate_encode(probability, keys, 12).dense())


def test_seeds_samples_steps_and_channels_draw_independently() -> None:
    n_steps, n_channels, p = 500, 40, 0.3
    probability = torch.full((2, n_channels), p)
    first, second = (rate_encode(probability, sample_keys(s, torch.arange(2)), n_steps).dense() for s in (0, 1))
    # two independent Bernoulli trains coincide at p^2
    for a, b in (
        (first[:, 0], second[:, 0]),  # seeds
        (first[:, 0], first[:, 1]),  # samples
        (first[:-1, 0], first[1:, 0]),  # steps
        (first[:, 0, :-1], first[:, 0, 1:]),  # channels
    ):
        assert within(int((a & b).sum()), a.numel(), p * p, 4)


def test_keys_are_a_pure_function_of_seed_and_index_and_never_collide_here() -> None:
    keys = torch.stack([sample_keys(seed, torch.arange(2000)) for seed in range(5)])
    assert len(keys.unique()) == keys.numel()
    assert torch.equal(keys[3, 70:80], sample_keys(3, torch.arange(70, 80)))


@given(st.integers(1, 5), st.integers(0, 4), st.integers(1, 4), st.integers(0, 999))
def test_ragged_and_dense_say_the_same(n_steps: int, n_samples: int, n_channels: int, seed: int) -> None:
    dense = torch.rand(n_steps, n_samples, n_channels, generator=torch.Generator().manual_seed(seed)) < 0.5
    trains = SpikeTrains.from_dense(dense)
    assert trains.n_samples == n_samples
    assert torch.equal(trains.dense(), dense.to(torch.uint8))


def test_windows_are_cut_from_each_sample_at_its_own_start() -> None:
    dense = torch.rand(9, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    window = SpikeTrains.from_dense(dense).window(torch.tensor([0, 6, 2]), 3).dense()
    for b, start in enumerate((0, 6, 2)):
        assert torch.equal(window[:, b], dense[start : start + 3, b].to(torch.uint8))
    with pytest.raises(ValueError, match="windows of 3 steps must lie inside the 9 steps"):
        SpikeTrains.from_dense(dense).window(torch.tensor([0, 7, 2]), 3)


@pytest.mark.parametrize(
    ("offsets", "channels", "n_steps", "message"),
    [
        ([0, 1], [0], 0, "n_steps=0"),
        ([0, 1, 1], [0], 3, "B \\* n_steps \\+ 1 entries, got 3"),
        ([1, 1], [0], 1, "from 0 to the number of events 1"),
        ([0, 2, 1], [0], 2, "must not decrease"),
        ([0, 1], [4], 1, r"\[0, n_channels=4\)"),
    ],
)
def test_trains_that_are_none_are_refused(offsets: list, channels: list, n_steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikeTrains(torch.tensor(offsets), torch.tensor(channels).int(), n_steps, 4)


@pytest.mark.parametrize(
    ("probability", "keys", "n_steps", "message"),
    [(torch.zeros(3), 3, 5, "must be"), (torch.zeros(3, 2), 2, 5, "must be"), (torch.zeros(3, 2), 3, 0, "n_steps=0")],
)
def test_shapes_that_do_not_fit_are_refused(probability: torch.Tensor, keys: int, n_steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rate_encode(probability, sample_keys(0, torch.arange(keys)), n_steps)
