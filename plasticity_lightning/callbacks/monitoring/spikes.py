"""Records the spikes of spiking layers over one due batch and measures them.

SpikingJelly's nodes give [T, B, ...] in one call (step mode "m") or [B, ...] at each of T calls ("s"); both become
[T, B, N], every position of a convolution being a neuron. A time step counts as 1 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from plasticity_lightning.measures import spiking

__all__ = ["SPIKE_MEASURES", "SpikeRecorder", "multi_step"]

# from spikes [T, B, N] to a scalar
SPIKE_MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "silent": lambda s: spiking.silent(spiking.spike_counts(s)),
    "firing_rate": lambda s: spiking.firing_rate(spiking.spike_counts(s), float(len(s))).mean(),
    "rate_cv": lambda s: spiking.rate_cv(spiking.spike_counts(s)),
    "isi_cv": spiking.isi_cv,
    "fano": lambda s: spiking.fano(spiking.spike_counts(s)),
    "synchrony": lambda s: torch.stack([spiking.synchrony(recording) for recording in s.unbind(1)]).nanmean(),
    "participation_ratio": lambda s: spiking.participation_ratio(spiking.spike_counts(s)),
}


class SpikeRecorder:
    """Keeps the spikes of each layer, one byte each, until the end of the batch."""

    def __init__(self) -> None:
        self._calls: dict[str, list[Tensor]] = {}

    def reset(self) -> None:
        """Forget all spikes."""
        self._calls = {}

    def add(self, layer: str, spikes: Tensor) -> None:
        """Append one step [B, ...] or several [T, B, ...] that were given as [T, B, N]."""
        self._calls.setdefault(layer, []).append(spikes.detach().to(torch.uint8))

    def units(self) -> dict[str, int]:
        """Neurons of each layer."""
        return {layer: calls[0].shape[-1] for layer, calls in self._calls.items()}

    def values(self, due: Collection[str]) -> dict[str, dict[str, Tensor]]:
        """Measure -> layer -> scalar. Calls with another batch size than the first are left out."""
        found: dict[str, dict[str, Tensor]] = {}
        for layer, calls in self._calls.items():
            fitting = [call for call in calls if call.shape[1:] == calls[0].shape[1:]]
            spikes = torch.cat(fitting)
            for name, measure in SPIKE_MEASURES.items():
                if name in due and not (name in ("fano", "participation_ratio") and spikes.shape[1] < 2):
                    found.setdefault(name, {})[layer] = measure(spikes)
        return found


def multi_step(module: nn.Module) -> bool:
    """Whether a spiking node returns all time steps at once."""
    return getattr(module, "step_mode", "s") == "m"
