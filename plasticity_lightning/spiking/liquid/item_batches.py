"""Choosing and joining the items of a batch that is a dict: `label` and `index` int64 [B], and `image` [B, ...] or `events`.

`events` are ragged spike trains with the fields of `spiking.encoding.SpikeTrains`, whatever class a data module gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity_lightning.spiking.encoding import SpikeTrains

__all__ = ["join_batches", "select_items", "spaced_items"]

_DENSE = ("image", "label", "index")


def select_items(batch: dict[str, Any], index: Tensor) -> dict[str, Any]:
    """The items at `index` int64 [K] (positions in the batch, in [0, B)), in that order; events come back on the CPU."""
    part: dict[str, Any] = {name: batch[name][index.to(batch[name].device)] for name in _DENSE if name in batch}
    if "events" in batch:
        part["events"] = _trains(batch["events"]).select(index.cpu())
    return part


def spaced_items(batch: dict[str, Any], n_items: int) -> dict[str, Any]:
    """At most `n_items` (at least 1) items, evenly spaced over the batch, the first included."""
    n = len(batch["label"])
    return select_items(batch, torch.linspace(0, n - 1, min(n_items, n)).round().long())


def join_batches(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch of all items of `batches` (at least one, all with the same names), in order."""
    joined: dict[str, Any] = {name: torch.cat([b[name] for b in batches]) for name in _DENSE if name in batches[0]}
    if "events" in batches[0]:
        trains = [_trains(b["events"]) for b in batches]
        counts = torch.cat([t.offsets.diff() for t in trains])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        channels = torch.cat([t.channels for t in trains])
        joined["events"] = SpikeTrains(offsets, channels, trains[0].n_steps, trains[0].n_channels)
    return joined


def _trains(events: Any) -> SpikeTrains:
    return SpikeTrains(events.offsets.cpu(), events.channels.cpu(), int(events.n_steps), int(events.n_channels))
