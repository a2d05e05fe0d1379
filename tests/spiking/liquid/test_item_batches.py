"""Items are chosen and joined whole: images with their labels, spike trains with their indices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid.item_batches import join_batches, select_items, spaced_items


def batch(n: int = 5, seed: int = 0) -> dict:
    """n samples of 4 steps and 3 channels, as images and as events."""
    dense = torch.rand(4, n, 3, generator=torch.Generator().manual_seed(seed)) < 0.4
    index = torch.arange(n)
    return {
        "image": index[:, None] * 1.0,
        "label": index % 3,
        "index": index + 10,
        "events": SpikeTrains.from_dense(dense),
    }


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 50))
def test_chosen_trains_are_those_of_the_dense_tensor(index: list[int], seed: int) -> None:
    whole = batch(seed=seed)
    part = select_items(whole, torch.tensor(index))
    assert part["index"].tolist() == [10 + i for i in index]
    assert part["label"].tolist() == [i % 3 for i in index]
    assert part["image"][:, 0].tolist() == index
    assert torch.equal(part["events"].dense(), whole["events"].dense()[:, index])


def test_any_class_with_the_fields_of_spike_trains_will_do() -> None:
    whole = batch()
    events = whole["events"]
    foreign = SimpleNamespace(
        **{name: getattr(events, name) for name in ("offsets", "channels", "n_steps", "n_channels")}
    )
    part = select_items({**whole, "events": foreign}, torch.tensor([3, 1]))
    assert torch.equal(part["events"].dense(), events.dense()[:, [3, 1]])


def test_joining_the_parts_gives_the_whole() -> None:
    whole = batch()
    joined = join_batches([select_items(whole, torch.tensor(part)) for part in ([0, 1], [2], [3, 4])])
    assert torch.equal(joined["events"].dense(), whole["events"].dense())
    for name in ("image", "label", "index"):
        assert torch.equal(joined[name], whole[name])


def test_spaced_items_span_the_batch() -> None:
    # 3 of 5: positions 0, 2, 4
    assert spaced_items(batch(), 3)["index"].tolist() == [10, 12, 14]
    assert spaced_items(batch(), 9)["index"].tolist() == [10, 11, 12, 13, 14]


def test_a_position_outside_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"index must lie in \[0, 5\)"):
        batch()["events"].select(torch.tensor([5]))
