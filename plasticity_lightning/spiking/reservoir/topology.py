"""Reservoirs: Izhikevich neurons, sparse recurrent synapses and stimulus channels, L networks side by side as lanes.

A pair (j -> i), i != j, is connected with probability p. A synapse's weight is the charge that one spike of j brings to i (current * ms); two
filters, or three, turn charges into currents. Weights are held as one list sorted by (lane, source, target), so that the out-edges of a source
are contiguous. Sources: an independent model of Yamada & Chao's reservoir (their own equations are not public); Nicola & Clopath 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

import torch
from torch import Tensor

from plasticity_lightning.spiking.izhikevich import (
    CapacitanceIzhikevich,
    Izhikevich,
)
from plasticity_lightning.spiking.izhikevich_populations import (
    NeuronSpread,
    draw_izhikevich,
    nicola_clopath_neurons,
)
from plasticity_lightning.spiking.reservoir.filters import DoubleExponential, SplitExponentials

__all__ = [
    "Reservoir",
    "ReservoirOptions",
    "draw_reservoir",
    "join_lanes",
    "nicola_clopath_reservoir",
]


@dataclass(frozen=True)
class Reservoir:
    """L reservoirs of N neurons and S stimulus channels each: the lanes of a simulation.

    Args:
        neurons: parameters [L, N].
        n_excitatory: neurons 0..n_excitatory-1 use the excitatory filters, the rest the inhibitory one. With `DoubleExponential`: N.
        offsets: int64 [L, N + 1]; out-edges of neuron j of lane l are `offsets[l, j]:offsets[l, j + 1]`.
        target: int32 [E], postsynaptic neuron in [0, N), ascending and distinct within one source.
        weight: float64 [E], charge per spike.
        channels: float64 [L, S, N], current of a stimulus channel at level 1.
        noise: float64 [L], standard deviation of the current noise of every step, at least 0.
        synapses: filters of the charges.

    Raises:
        ValueError: if shapes, types or index ranges disagree.
    """

    neurons: Izhikevich | CapacitanceIzhikevich
    n_excitatory: int
    offsets: Tensor = field(repr=False)
    target: Tensor = field(repr=False)
    weight: Tensor = field(repr=False)
    channels: Tensor = field(repr=False)
    noise: Tensor = field(repr=False)
    synapses: SplitExponentials | DoubleExponential = field(default_factory=SplitExponentials)

    def __post_init__(self) -> None:
        if self.neurons.v_reset.ndim != 2:
            raise ValueError(f"neurons must have parameters [L, N], got {tuple(self.neurons.v_reset.shape)}")
        n_lanes, n = self.neurons.v_reset.shape
        if n_lanes < 1 or n < 1:
            raise ValueError(f"a reservoir needs at least one lane and one neuron, got {n_lanes} lanes of {n} neurons")
        if not 0 <= self.n_excitatory <= n:
            raise ValueError(f"n_excitatory={self.n_excitatory} must lie in [0, {n}], the number of neurons")
        if isinstance(self.synapses, DoubleExponential) and self.n_excitatory != n:
            raise ValueError(
                f"DoubleExponential is one filter for all {n} neurons, but n_excitatory={self.n_excitatory}: set it to {n}"
            )
        n_edges = self.target.numel()
        for name, shape, dtype in (
            ("offsets", (n_lanes, n + 1), torch.int64),
            ("target", (n_edges,), torch.int32),
            ("weight", (n_edges,), torch.float64),
            ("channels", (n_lanes, self.channels.shape[1] if self.channels.ndim == 3 else 0, n), torch.float64),
            ("noise", (n_lanes,), torch.float64),
        ):
            value = getattr(self, name)
            if value.shape != shape or value.dtype != dtype:
                raise ValueError(f"{name} must be {dtype} {shape}, got {value.dtype} {tuple(value.shape)}")
        steps = self.offsets.diff(dim=1)
        contiguous = torch.equal(self.offsets[1:, 0], self.offsets[:-1, -1])
        if bool((steps < 0).any()) or not contiguous or int(self.offsets[0, 0]) or int(self.offsets[-1, -1]) != n_edges:
            raise ValueError(
                f"offsets must run from 0 to the number of edges {n_edges}, lane after lane, without decreasing"
            )
        if n_edges:
            if int(self.target.min()) < 0 or int(self.target.max()) >= n:
                raise ValueError(f"target must lie in [0, {n})")
            source = torch.repeat_interleave(torch.arange(n_lanes * n), steps.reshape(-1))
            key = source * n + self.target
            if not bool((key[1:] > key[:-1]).all()):
                raise ValueError("targets must be ascending and distinct within one source")
        if not all(bool(torch.isfinite(x).all()) for x in (self.weight, self.channels, self.noise)):
            raise ValueError("weight, channels and noise must be finite")
        if not bool((self.noise >= 0).all()):
            raise ValueError(f"noise must be at least 0, got {float(self.noise.min())}")

    @property
    def n_lanes(self) -> int:
        """L."""
        return self.neurons.v_reset.shape[0]

    @property
    def n_neurons(self) -> int:
        """N."""
        return self.neurons.v_reset.shape[1]

    @property
    def n_channels(self) -> int:
        """S."""
        return self.channels.shape[1]

    @property
    def dt(self) -> float:
        """Time step in ms."""
        return self.neurons.dt

    def lanes(self, first: int, last: int) -> Reservoir:
        """Lanes first..last-1 as a reservoir of their own."""
        if not 0 <= first < last <= self.n_lanes:
            raise ValueError(f"lanes {first}..{last - 1} must lie in 0..{self.n_lanes - 1}")
        begin, end = int(self.offsets[first, 0]), int(self.offsets[last - 1, -1])
        cells = {name: value[first:last] for name, value in self.neurons.tensors().items()}
        return replace(
            self,
            neurons=self.neurons.with_tensors(cells),
            offsets=self.offsets[first:last] - begin,
            target=self.target[begin:end],
            weight=self.weight[begin:end],
            channels=self.channels[first:last],
            noise=self.noise[first:last],
        )

    def dense(self, lane: int) -> Tensor:
        """Weights of one lane, float64 [N, N], row = target, column = source; 0 where there is no synapse."""
        offsets = self.offsets[lane]
        source = torch.repeat_interleave(torch.arange(self.n_neurons), offsets.diff())
        matrix = torch.zeros(self.n_neurons, self.n_neurons, dtype=torch.float64)
        edges = slice(int(offsets[0]), int(offsets[-1]))
        matrix[self.target[edges].long(), source] = self.weight[edges]
        return matrix


@dataclass(frozen=True)
class ReservoirOptions:
    """How a reservoir of the prediction object is drawn.

    Args:
        n_neurons: N, at least 1.
        n_channels: S, stimulus channels (cues and outcomes alike), at least 0.
        excitatory_fraction: rounded to a whole number of neurons, in [0, 1].
        connection_probability: p of every pair, in [0, 1].
        weight_sigma: of the lognormal magnitudes (their mean is 1), at least 0.
        gain_excitatory: g_E, at least 0; a synapse's charge is 10 g_E / (expected excitatory in-degree) times its magnitude.
        gain_inhibitory: g_I, at least 0, likewise.
        stimulus: largest current of a stimulus; each neuron gets stimulus * U(stimulus_low, 1), negative with probability 1 - positive.
        stimulus_low: in [0, 1].
        positive: probability of a positive sign, in [0, 1].
        noise: standard deviation of the current noise of each ms, at least 0.
        spread: ranges of the neurons' parameters.
        synapses: filters of the charges.

    Raises:
        ValueError: if an argument is outside its range.
    """

    n_neurons: int = 800
    n_channels: int = 5
    excitatory_fraction: float = 0.8
    connection_probability: float = 0.1
    weight_sigma: float = 0.5
    gain_excitatory: float = 7.0
    gain_inhibitory: float = 3.5
    stimulus: float = 25.0
    stimulus_low: float = 0.3
    positive: float = 0.8
    noise: float = 0.3
    spread: NeuronSpread = field(default_factory=NeuronSpread)
    synapses: SplitExponentials = field(default_factory=SplitExponentials)

    def __post_init__(self) -> None:
        if self.n_neurons < 1:
            raise ValueError(f"n_neurons={self.n_neurons} must be at least 1")
        if self.n_channels < 0:
            raise ValueError(f"n_channels={self.n_channels} must be at least 0")
        for name in ("excitatory_fraction", "connection_probability", "stimulus_low", "positive"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("weight_sigma", "gain_excitatory", "gain_inhibitory", "stimulus", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")


def draw_reservoir(options: ReservoirOptions | None = None, *, generator: torch.Generator) -> Reservoir:
    """Draw one lane from the options; the generator is the source of every random choice."""
    options = options or ReservoirOptions()
    n = options.n_neurons
    n_excitatory = round(options.excitatory_fraction * n)
    cells = draw_izhikevich(n_excitatory, n - n_excitatory, spread=options.spread, generator=generator)
    exists = _connected(n, options.connection_probability, generator)
    source, target = exists.nonzero(as_tuple=True)
    charge = torch.zeros(n, dtype=torch.float64)
    for kind, gain, sign in (
        (slice(0, n_excitatory), options.gain_excitatory, 1.0),
        (slice(n_excitatory, n), options.gain_inhibitory, -1.0),
    ):
        in_degree = options.connection_probability * charge[kind].numel()
        charge[kind] = sign * 10.0 * gain / in_degree if in_degree > 0 else 0.0
    sigma = options.weight_sigma
    z = torch.randn(source.numel(), dtype=torch.float64, generator=generator)
    magnitude = (sigma * z - 0.5 * sigma * sigma).exp()
    shape = (1, options.n_channels, n)
    low = options.stimulus_low
    strength = low + (1.0 - low) * torch.rand(shape, dtype=torch.float64, generator=generator)
    polarity = torch.where(torch.rand(shape, dtype=torch.float64, generator=generator) < options.positive, 1.0, -1.0)
    return Reservoir(
        neurons=cells.with_tensors({name: value[None] for name, value in cells.tensors().items()}),
        n_excitatory=n_excitatory,
        offsets=_offsets(exists),
        target=target.int(),
        weight=charge[source] * magnitude,
        channels=options.stimulus * strength * polarity,
        noise=torch.tensor([options.noise], dtype=torch.float64),
        synapses=options.synapses,
    )


def nicola_clopath_reservoir(
    n_neurons: int = 2000,
    *,
    gain: float = 5e3,
    connection_probability: float = 0.1,
    b: float = -2.0,
    dt: float = 0.04,
    channels: Tensor | None = None,
    generator: torch.Generator,
) -> Reservoir:
    """One lane of Nicola & Clopath's chaotic network: weights gain * N(0, 1) * Bernoulli(p) / (p sqrt(N)), homogeneous neurons.

    Args:
        n_neurons: N, at least 1.
        gain: G, in pA ms.
        connection_probability: p, in (0, 1].
        b: of the neurons, nS.
        dt: ms.
        channels: float64 [S, N], stimulus currents; none by default.
        generator: source of every random choice.
    """
    if not 0 < connection_probability <= 1:
        raise ValueError(f"connection_probability={connection_probability} must lie in (0, 1]")
    cells = nicola_clopath_neurons(n_neurons, b=b, dt=dt)
    exists = _connected(n_neurons, connection_probability, generator)
    _, target = exists.nonzero(as_tuple=True)
    z = torch.randn(target.numel(), dtype=torch.float64, generator=generator)
    return Reservoir(
        neurons=cells.with_tensors({name: value[None] for name, value in cells.tensors().items()}),
        n_excitatory=n_neurons,
        offsets=_offsets(exists),
        target=target.int(),
        weight=gain * z / (connection_probability * sqrt(n_neurons)),
        channels=torch.zeros(1, 0, n_neurons, dtype=torch.float64) if channels is None else channels[None],
        noise=torch.zeros(1, dtype=torch.float64),
        synapses=DoubleExponential(),
    )


def join_lanes(reservoirs: Sequence[Reservoir]) -> Reservoir:
    """The lanes of all `reservoirs`, in order, as one; they must agree in all but their numbers.

    Raises:
        ValueError: if there are none, or they differ in size, kind of neuron or filters.
    """
    if not reservoirs:
        raise ValueError("reservoirs is empty: at least one is needed")
    first = reservoirs[0]

    def kind(reservoir: Reservoir) -> tuple[object, ...]:
        sizes = (reservoir.n_neurons, reservoir.n_excitatory, reservoir.n_channels)
        return (type(reservoir.neurons).__name__, reservoir.dt, *sizes, reservoir.synapses)

    for reservoir in reservoirs[1:]:
        if kind(reservoir) != kind(first):
            raise ValueError(
                f"reservoirs of different kinds cannot be lanes of one: {kind(first)} and {kind(reservoir)}"
            )
    cells = {name: torch.cat([r.neurons.tensors()[name] for r in reservoirs]) for name in first.neurons.tensors()}
    offsets, start = [], 0
    for reservoir in reservoirs:
        offsets.append(reservoir.offsets + start)
        start += reservoir.target.numel()
    return replace(
        first,
        neurons=first.neurons.with_tensors(cells),
        offsets=torch.cat(offsets),
        target=torch.cat([r.target for r in reservoirs]),
        weight=torch.cat([r.weight for r in reservoirs]),
        channels=torch.cat([r.channels for r in reservoirs]),
        noise=torch.cat([r.noise for r in reservoirs]),
    )


def _connected(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which pairs are connected, bool [N, N], row = source; no neuron reaches itself."""
    exists = torch.rand(n, n, generator=generator) < probability
    return exists.fill_diagonal_(False)


def _offsets(exists: Tensor) -> Tensor:
    counts = exists.sum(1)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])[None]
