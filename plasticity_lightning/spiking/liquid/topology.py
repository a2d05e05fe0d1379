"""Three-dimensional liquid networks: who is connected to whom.

Neurons sit on a full grid d1 x d2 x d3 with unit spacing; a directed edge j -> i exists with probability
C(type) * exp(-(D_ij / length_scale)^2), D being the Euclidean distance (Maass et al. 2002; the constants are those of Ivanov &
Michmizos 2021). Every liquid neuron, excitatory or inhibitory, can also receive edges from input channels.
Edges are held as one list sorted by (source, target), so that the out-edges of a source are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

__all__ = ["ConnectionProbability", "Liquid", "grid_liquid"]


@dataclass(frozen=True)
class ConnectionProbability:
    """Connection probability at distance zero, by source and target type.

    Args:
        ee: excitatory to excitatory, in [0, 1].
        ei: excitatory source, inhibitory target, in [0, 1].
        ie: inhibitory source, excitatory target, in [0, 1].
        ii: inhibitory to inhibitory, in [0, 1].
    """

    ee: float = 0.2
    ei: float = 0.1
    ie: float = 0.3
    ii: float = 0.05

    def __post_init__(self) -> None:
        for name in ("ee", "ei", "ie", "ii"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"connection probability {name}={value} must lie in [0, 1]")


@dataclass(frozen=True)
class Liquid:
    """A recurrent network of N liquid neurons driven by C input channels, as an edge list.

    Sources are numbered liquid first: 0..N-1 are liquid neurons (excitatory ones before inhibitory ones), N..N+C-1 input channels.

    Args:
        n_inputs: C, number of input channels.
        n_neurons: N, number of liquid neurons.
        n_excitatory: neurons 0..n_excitatory-1 are excitatory, the rest inhibitory.
        positions: float32 [N, 3], grid coordinates.
        source: int32 [E], sorted; presynaptic liquid neuron or input channel.
        target: int32 [E], postsynaptic liquid neuron, ascending within one source.
        weight: float32 [E], initial weights; excitatory >= 0, inhibitory <= 0, input either sign.

    Raises:
        ValueError: if shapes or index ranges disagree or the edges are not sorted.
    """

    n_inputs: int
    n_neurons: int
    n_excitatory: int
    positions: Tensor = field(repr=False)
    source: Tensor = field(repr=False)
    target: Tensor = field(repr=False)
    weight: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        n_edges = self.source.numel()
        if self.source.shape != (n_edges,) or self.target.shape != (n_edges,) or self.weight.shape != (n_edges,):
            raise ValueError(
                f"source {tuple(self.source.shape)}, target {tuple(self.target.shape)} and weight {tuple(self.weight.shape)} "
                "must be one-dimensional and of equal length"
            )
        if self.positions.shape != (self.n_neurons, 3):
            raise ValueError(f"positions must be [{self.n_neurons}, 3], got {tuple(self.positions.shape)}")
        if not 0 <= self.n_excitatory <= self.n_neurons:
            raise ValueError(f"n_excitatory={self.n_excitatory} must lie in [0, n_neurons={self.n_neurons}]")
        if n_edges:
            if not (int(self.source.min()) >= 0 and int(self.source.max()) < self.n_sources):
                raise ValueError(f"source indices must lie in [0, {self.n_sources})")
            if not (int(self.target.min()) >= 0 and int(self.target.max()) < self.n_neurons):
                raise ValueError(f"target indices must lie in [0, {self.n_neurons})")
            key = self.source.long() * self.n_neurons + self.target.long()
            if not bool((key[1:] > key[:-1]).all()):
                raise ValueError("edges must be sorted by (source, target) and distinct")

    @property
    def n_sources(self) -> int:
        """Liquid neurons plus input channels."""
        return self.n_neurons + self.n_inputs

    @property
    def n_edges(self) -> int:
        """Number of edges, liquid and input ones together."""
        return self.source.numel()

    def source_offsets(self) -> Tensor:
        """int64 [n_sources + 1]: out-edges of source j are `offsets[j]:offsets[j + 1]`."""
        counts = torch.bincount(self.source.long(), minlength=self.n_sources)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def edge_types(self) -> dict[str, Tensor]:
        """Boolean masks [E] of the edges by type: `ee`, `ei`, `ie`, `ii` and `input`, read source first."""
        from_input = self.source >= self.n_neurons
        from_e = self.source < self.n_excitatory
        from_i = ~from_input & ~from_e
        to_e = self.target < self.n_excitatory
        return {
            "ee": from_e & to_e,
            "ei": from_e & ~to_e,
            "ie": from_i & to_e,
            "ii": from_i & ~to_e,
            "input": from_input,
        }

    def recurrent_edges(self) -> tuple[Tensor, Tensor]:
        """Source and target, int64, of the liquid-to-liquid edges only."""
        mask = self.source < self.n_neurons
        return self.source[mask].long(), self.target[mask].long()


def grid_liquid(
    shape: tuple[int, int, int] = (10, 10, 10),
    n_inputs: int = 784,
    *,
    weight: float = 3.0,
    input_density: float = 0.15,
    excitatory_fraction: float = 0.8,
    probability: ConnectionProbability | None = None,
    length_scale: float = 3.0,
    generator: torch.Generator,
) -> Liquid:
    """Draw a liquid on a grid with distance-dependent connections and uniformly random input connections.

    Args:
        shape: grid size (d1, d2, d3); N = d1 * d2 * d3.
        n_inputs: number of input channels C.
        weight: initial |w| of every edge: E +weight, I -weight, input +/-weight with probability 1/2 each.
        input_density: exactly floor(input_density * N * C) distinct (neuron, channel) pairs are connected, in [0, 1].
        excitatory_fraction: fraction of excitatory neurons, rounded to a whole number, in [0, 1].
        probability: connection probabilities at distance zero; the paper's by default.
        length_scale: in grid units, positive.
        generator: source of every random choice.

    Raises:
        ValueError: if an argument is outside its range.

    Source: Ivanov & Michmizos 2021, network generation of the published code.
    """
    probability = probability or ConnectionProbability()
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={shape} must be three positive integers (d1, d2, d3)")
    if n_inputs < 1:
        raise ValueError(f"n_inputs={n_inputs} must be at least 1")
    if weight <= 0:
        raise ValueError(f"weight={weight} must be positive: it is the magnitude of every initial weight")
    if not 0.0 <= input_density <= 1.0:
        raise ValueError(f"input_density={input_density} must lie in [0, 1]")
    if not 0.0 <= excitatory_fraction <= 1.0:
        raise ValueError(f"excitatory_fraction={excitatory_fraction} must lie in [0, 1]")
    if length_scale <= 0:
        raise ValueError(f"length_scale={length_scale} must be positive")

    n = prod(shape)
    n_excitatory = round(excitatory_fraction * n)
    grid = torch.cartesian_prod(*(torch.arange(d, dtype=torch.float32) for d in shape)).reshape(n, 3)
    positions = grid[torch.randperm(n, generator=generator)]

    source, target = _distance_dependent_edges(positions, n_excitatory, probability, length_scale, generator)
    sign = torch.where(source < n_excitatory, 1.0, -1.0)

    n_input_edges = int(input_density * n * n_inputs)
    pair = torch.randperm(n * n_inputs, generator=generator)[:n_input_edges].sort().values  # channel-major
    input_sign = torch.randint(0, 2, (n_input_edges,), generator=generator) * 2.0 - 1.0
    return Liquid(
        n_inputs=n_inputs,
        n_neurons=n,
        n_excitatory=n_excitatory,
        positions=positions,
        source=torch.cat([source, pair // n + n]).int(),
        target=torch.cat([target, pair % n]).int(),
        weight=torch.cat([sign, input_sign]) * weight,
    )


def _distance_dependent_edges(
    positions: Tensor,
    n_excitatory: int,
    probability: ConnectionProbability,
    length_scale: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    n = positions.shape[0]
    to_excitatory = torch.arange(n) < n_excitatory
    sources, targets = [], []
    for start in range(0, n, 512):  # by blocks of sources: an 8000-neuron liquid would need 64 M distances at once
        block = torch.arange(start, min(start + 512, n))
        decay = torch.exp(-((torch.cdist(positions[block], positions) / length_scale) ** 2))
        from_e = torch.where(to_excitatory, probability.ee, probability.ei)
        from_i = torch.where(to_excitatory, probability.ie, probability.ii)
        peak = torch.where((block < n_excitatory)[:, None], from_e[None, :], from_i[None, :])
        exists = torch.rand(decay.shape, generator=generator) < peak * decay
        exists[torch.arange(len(block)), block] = False
        row, column = exists.nonzero(as_tuple=True)
        sources.append(row + start)
        targets.append(column)
    return torch.cat(sources), torch.cat(targets)
