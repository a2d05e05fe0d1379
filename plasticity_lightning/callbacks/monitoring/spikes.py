"""Records the spikes of spiking layers over one due batch and measures them.

Spiking nodes give [T, B, ...] in one call (SpikingJelly's step mode "m") or [B, ...] at each of T calls ("s", snnTorch);
both become [T, B, N], every position of a convolution being a neuron. A time step counts as 1 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plasticity_lightning.measures.registry import Measure
from plasticity_lightning.measures.spiking import spike_counts

__all__ = ["SpikeRecorder", "multi_step"]


class SpikeRecorder:
    """Keeps the spikes of each layer, one byte each, until the end of the batch."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all spikes."""
        self._calls: dict[str, list[Tensor]] = {}
        self._other: dict[
            str, list[Tensor]
        ] = {}  # whether something else than 0 and 1 came from a layer of no known class

    def add(self, layer: str, spikes: Tensor, known: bool = True) -> None:
        """Append one step [B, ...] or several [T, B, ...] that were given as [T, B, N].

        Args:
            layer: its name.
            spikes: 0 or 1.
            known: the layer is of a known spiking class; else its output is checked when values are read.
        """
        spikes = spikes.detach()
        if not known:
            self._other.setdefault(layer, []).append(((spikes != 0) & (spikes != 1)).any())
        self._calls.setdefault(layer, []).append(spikes.to(torch.uint8))

    def units(self) -> dict[str, int]:
        """Neurons of each layer."""
        return {layer: calls[0].shape[-1] for layer, calls in self._calls.items()}

    def values(self, due: Sequence[Measure]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
        """(measure -> layer -> scalar, layers that turned out not to spike).

        Calls with another batch size than the first are left out, and measures that need more recordings than there are.
        """
        found: dict[str, dict[str, Tensor]] = {}
        not_spiking = [layer for layer, flags in self._other.items() if bool(torch.stack(flags).any())]
        for layer, calls in self._calls.items():
            fitting = [call for call in calls if call.shape[1:] == calls[0].shape[1:]]
            spikes = torch.cat(fitting)
            options = {"duration": float(len(spikes))}
            for measure in due if layer not in not_spiking else ():
                if spikes.shape[1] >= measure.samples:
                    given = spike_counts(spikes) if measure.given == "counts" else spikes
                    result = measure.definition(given, **{name: options[name] for name in measure.options})
                    for name, value in measure.values(result).items():
                        found.setdefault(name, {})[layer] = value
        return found, not_spiking


def multi_step(module: nn.Module) -> bool:
    """Whether a spiking node returns all time steps at once."""
    return getattr(module, "step_mode", "s") == "m"
