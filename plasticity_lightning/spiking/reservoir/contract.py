"""What every back end of the reservoir takes and returns.

An engine runs L lanes of one `Reservoir` for a call (a trial, say) and returns readout traces on a coarse grid; the whole state is carried to the
next call, and cutting a call in two changes no bit. Lanes do not know of each other: their noise depends on their own key and step counter.
Currents, potentials and traces are float64 in every back end, added in one fixed order, so that spikes and traces are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Protocol

import torch
from torch import Tensor

from plasticity_lightning.spiking.reservoir.drive import Drive
from plasticity_lightning.spiking.reservoir.topology import Reservoir
from plasticity_lightning.spiking.splitmix import sample_keys

__all__ = [
    "ClosedLoop",
    "Engine",
    "LoopState",
    "ReservoirActivity",
    "ReservoirState",
    "Trace",
    "check_simulation",
    "initial_state",
]


@dataclass(frozen=True)
class Trace:
    """Readout trace of a spike train: 1000 (exp(-t/decay) - exp(-t/rise)) / (decay - rise) a spike, in Hz.

    Args:
        rise: ms, positive.
        decay: ms, above `rise`.
        every: ms between two samples that are returned, a whole number of time steps.
    """

    rise: float = 5.0
    decay: float = 50.0
    every: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.rise < self.decay:
            raise ValueError(f"rise={self.rise} and decay={self.decay} must satisfy 0 < rise < decay, in ms")
        if not self.every > 0:
            raise ValueError(f"every={self.every} must be positive, in ms")

    def steps(self, dt: float) -> int:
        """Time steps of dt ms from one sample to the next.

        Raises:
            ValueError: if `every` is no whole number of them.
        """
        steps = round(self.every / dt)
        if steps < 1 or abs(steps * dt - self.every) > 1e-9 * self.every:
            raise ValueError(f"every={self.every} ms must be a whole number of time steps of {dt} ms")
        return steps

    def coefficients(self, dt: float) -> tuple[float, float, float]:
        """(decay of the rising part, decay of the decaying part, scale) for a step of dt ms."""
        return exp(-dt / self.rise), exp(-dt / self.decay), 1000.0 / (self.decay - self.rise)


@dataclass(frozen=True)
class ClosedLoop:
    """Feedback of K readouts into the reservoir at every step, and their step-wise learning by recursive least squares (FORCE).

    At each step: neurons, synapses and traces x advance; then z = decoder x; then, at every `period`-th step (of the lane's own step counter) that
    `learn` marks, with e = z - target and g = P x: decoder -= e g' / (1 + x'g) and P -= g g' / (1 + x'g). z drives the next step through `encoder`.

    Args:
        encoder: float64 [L, N, K], current per unit of output.
        target: float64 [L, T, K], wanted output at each step; None never learns.
        learn: bool [L, T]; None learns wherever there is a target.
        period: steps between two updates, at least 1.
        forgetting: lambda in (0, 1]; below 1 the gain's denominator is lambda + x'g and P is divided by lambda.
        stale_gain: decoder -= e g' without the denominator, as Nicola & Clopath's code does (with the gain before the update of P).

    Raises:
        ValueError: if a number is outside its range or shapes disagree.
    """

    encoder: Tensor = field(repr=False)
    target: Tensor | None = field(default=None, repr=False)
    learn: Tensor | None = field(default=None, repr=False)
    period: int = 1
    forgetting: float = 1.0
    stale_gain: bool = False

    def __post_init__(self) -> None:
        if self.encoder.ndim != 3 or self.encoder.dtype != torch.float64:
            raise ValueError(f"encoder must be float64 [L, N, K], got {self.encoder.dtype} {tuple(self.encoder.shape)}")
        if self.period < 1:
            raise ValueError(f"period={self.period} must be at least 1 step")
        if not 0 < self.forgetting <= 1:
            raise ValueError(f"forgetting={self.forgetting} must lie in (0, 1]")
        if self.learn is not None and self.target is None:
            raise ValueError("learn marks steps of a target, but there is no target")


@dataclass(frozen=True)
class LoopState:
    """Readouts of a closed loop.

    Args:
        decoder: float64 [L, K, N], output per Hz.
        inverse: float64 [L, N, N], P, the running inverse of the traces' correlation matrix; None where nothing learns.
        output: float64 [L, K], z of the last step.
    """

    decoder: Tensor = field(repr=False)
    inverse: Tensor | None = field(repr=False)
    output: Tensor = field(repr=False)


@dataclass(frozen=True)
class ReservoirState:
    """All that a lane carries from call to call; every tensor float64 [L, N] unless said otherwise.

    Args:
        v: membrane potential, mV.
        u: recovery.
        first: current of the first excitatory filter.
        second: current of the second.
        inhibitory: current of the inhibitory filter.
        rising: fast exponential of the readout trace.
        decaying: slow exponential of the readout trace.
        key: int64 [L], key of the lane's noise.
        step: int64 [L], steps simulated so far: the counter of the noise.
        loop: readouts of a closed loop, if there is one.
    """

    v: Tensor = field(repr=False)
    u: Tensor = field(repr=False)
    first: Tensor = field(repr=False)
    second: Tensor = field(repr=False)
    inhibitory: Tensor = field(repr=False)
    rising: Tensor = field(repr=False)
    decaying: Tensor = field(repr=False)
    key: Tensor
    step: Tensor
    loop: LoopState | None = None


@dataclass(frozen=True)
class ReservoirActivity:
    """What a call gives. Rows beyond a shorter lane's own end are 0.

    Args:
        trace: float32 [L, M, N], readout trace in Hz after every `Trace.every` ms of the call; M = longest call / that.
        counts: int32 [L, N], spikes of the call.
        n_spikes: int32 [L, T], spikes of each step, T = steps of the longest call.
        output: float64 [L, T, K], z of each step of a closed loop, else None.
        spikes: uint8 [L, T, N] if recorded, else None.
    """

    trace: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    n_spikes: Tensor = field(repr=False)
    output: Tensor | None = field(default=None, repr=False)
    spikes: Tensor | None = field(default=None, repr=False)


class Engine(Protocol):
    """One back end."""

    def __call__(
        self,
        reservoir: Reservoir,
        drive: Drive,
        state: ReservoirState,
        *,
        trace: Trace | None = None,
        loop: ClosedLoop | None = None,
        record: bool = False,
        threads: int | None = None,
    ) -> tuple[ReservoirActivity, ReservoirState]:
        """Run all lanes for one call; returns the activity and the state after it. The state that was given stays as it was."""


def initial_state(
    reservoir: Reservoir, seeds: Sequence[int], *, v: Tensor | None = None, loop: LoopState | None = None
) -> ReservoirState:
    """A silent start: neurons at rest (or at `v` [L, N]), no currents, no traces.

    Args:
        reservoir: L lanes.
        seeds: one a lane, of its noise.
        v: potentials to start from, mV.
        loop: readouts of a closed loop.

    Raises:
        ValueError: if there is not one seed a lane or v has another shape.
    """
    if len(seeds) != reservoir.n_lanes:
        raise ValueError(f"seeds has {len(seeds)} entries for {reservoir.n_lanes} lanes")
    rest, u = reservoir.neurons.at_rest()
    if v is not None and v.shape != rest.shape:
        raise ValueError(f"v has shape {tuple(v.shape)}, the reservoir {tuple(rest.shape)}")
    zero = torch.zeros_like(rest)
    return ReservoirState(
        v=rest if v is None else v.double(),
        u=u,
        first=zero,
        second=zero,
        inhibitory=zero,
        rising=zero,
        decaying=zero,
        key=torch.cat([sample_keys(seed, torch.zeros(1, dtype=torch.int64)) for seed in seeds]),
        step=torch.zeros(len(seeds), dtype=torch.int64),
        loop=loop,
    )


def check_simulation(
    reservoir: Reservoir, drive: Drive, state: ReservoirState, trace: Trace, loop: ClosedLoop | None
) -> None:
    """Refuse arguments that do not fit together.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    n_lanes, n = reservoir.n_lanes, reservoir.n_neurons
    every = trace.steps(reservoir.dt)
    if drive.n_steps.numel() != n_lanes:
        raise ValueError(f"drive has {drive.n_steps.numel()} lanes, the reservoir {n_lanes}")
    if drive.n_channels != reservoir.n_channels:
        raise ValueError(f"drive has {drive.n_channels} channels, the reservoir {reservoir.n_channels}")
    if bool((drive.n_steps % every != 0).any()):
        raise ValueError(
            f"n_steps={drive.n_steps.tolist()} must be multiples of {every}, the steps from one sample of the trace to the next"
        )
    for name in ("v", "u", "first", "second", "inhibitory", "rising", "decaying"):
        value = getattr(state, name)
        if value.shape != (n_lanes, n) or value.dtype != torch.float64:
            raise ValueError(f"state.{name} must be float64 [{n_lanes}, {n}], got {value.dtype} {tuple(value.shape)}")
    for name in ("key", "step"):
        value = getattr(state, name)
        if value.shape != (n_lanes,) or value.dtype != torch.int64:
            raise ValueError(f"state.{name} must be int64 [{n_lanes}], got {value.dtype} {tuple(value.shape)}")
    if (loop is None) != (state.loop is None):
        raise ValueError("a closed loop needs both `loop` and `state.loop`, an open one neither")
    if loop is not None and state.loop is not None:
        _check_loop(n_lanes, n, int(drive.n_steps.max()), loop, state.loop)


def _check_loop(n_lanes: int, n: int, n_steps: int, loop: ClosedLoop, state: LoopState) -> None:
    k = loop.encoder.shape[2]
    expected = {
        "encoder": (loop.encoder, (n_lanes, n, k)),
        "state.loop.decoder": (state.decoder, (n_lanes, k, n)),
        "state.loop.output": (state.output, (n_lanes, k)),
        "target": (loop.target, (n_lanes, n_steps, k)),
        "state.loop.inverse": (state.inverse, (n_lanes, n, n)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and (value.shape != shape or value.dtype != torch.float64):
            raise ValueError(f"{name} must be float64 {shape}, got {value.dtype} {tuple(value.shape)}")
    if loop.learn is not None and (loop.learn.shape != (n_lanes, n_steps) or loop.learn.dtype != torch.bool):
        raise ValueError(f"learn must be bool {(n_lanes, n_steps)}, got {loop.learn.dtype} {tuple(loop.learn.shape)}")
    if loop.target is not None and state.inverse is None:
        raise ValueError(
            "learning a target needs state.loop.inverse, float64 [L, N, N]; start from the identity / alpha"
        )
