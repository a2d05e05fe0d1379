"""FORCE on the network it was published with.

A chaotic spiking reservoir whose readout is fed back and learns to go on with a signal by itself.

A batch is a piece of the signal. The engine runs it in closed loop and learns by recursive least squares every few
steps; the change of the decoder goes through the optimizer. The test lets it run free. The baseline of the prediction
object in its original form, where feedback matters.

Source: Nicola & Clopath, Nature Communications 8:2208 (2017), ModelDB 190565, `CODE FOR FIGURE 2/IZFORCESINE.m`;
Sussillo & Abbott 2009.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.measures.periodic import amplitude_ratio, best_lag_correlation, dominant_frequency
from plasticity_lightning.runtime.hyperparameters import save_plain_hyperparameters
from plasticity_lightning.spiking.reservoir import (
    ClosedLoop,
    Drive,
    EngineName,
    LoopState,
    ReservoirState,
    Trace,
    initial_state,
    join_lanes,
    nicola_clopath_reservoir,
)
from plasticity_lightning.spiking.reservoir import engine as select_engine

__all__ = ["ForceGenerator"]

_CARRIED = tuple(f.name for f in fields(ReservoirState) if f.name != "loop")


class ForceGenerator(pl.LightningModule):
    """Closed-loop FORCE; batches are those of `PeriodicSignalDataModule`. Lane l has the network of seed `seed + l`.

    Args:
        n_neurons: N; the published example has 2000.
        lanes: L, networks side by side.
        seed: of the first.
        gain: G of the static weights, pA ms.
        feedback: Q of the encoders, pA per unit of output: each is Q U(-1, 1).
        alpha: the inverse correlation starts as alpha times the identity, for traces in spikes per ms; positive.
        period: time steps between two updates.
        stale_gain: quirk of the published code: the decoder moves by P r with P from before the sample.
        rise: of the readout trace, ms.
        decay: of the readout trace, ms.
        dt: time step, ms; as the data's.
        engine: simulation back end.
        threads: CPU threads over lanes; None takes all.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        n_neurons: int = 1000,
        lanes: int = 2,
        seed: int = 0,
        gain: float = 5e3,
        feedback: float = 5e3,
        alpha: float = 2.0,
        period: int = 50,
        stale_gain: bool = True,
        rise: float = 2.0,
        decay: float = 20.0,
        dt: float = 0.04,
        engine: EngineName = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("n_neurons", n_neurons), ("lanes", lanes), ("period", period)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not alpha > 0 or not feedback >= 0:
            raise ValueError(f"alpha={alpha} must be positive and feedback={feedback} at least 0")
        save_plain_hyperparameters(self)
        self.automatic_optimization = False
        generators = [torch.Generator().manual_seed(seed + lane) for lane in range(lanes)]
        self.reservoir = join_lanes(
            [nicola_clopath_reservoir(n_neurons, gain=gain, dt=dt, generator=g) for g in generators]
        )
        self.simulate, self.trace = select_engine(engine), Trace(rise, decay, every=dt)
        rest, _ = self.reservoir.neurons.at_rest()
        start = torch.stack([torch.rand(n_neurons, generator=g, dtype=torch.float64) for g in generators])
        peak = cast(Any, self.reservoir.neurons).v_peak
        state = initial_state(self.reservoir, [seed + lane for lane in range(lanes)], v=rest + (peak - rest) * start)
        for name in _CARRIED:
            self.register_buffer(f"state_{name}", getattr(state, name))
        encoder = torch.stack([2 * torch.rand(n_neurons, 1, generator=g, dtype=torch.float64) - 1 for g in generators])
        self.register_buffer("encoder", feedback * encoder)
        eye = torch.eye(n_neurons, dtype=torch.float64) * (
            alpha * 1e-6
        )  # the traces are in Hz: spikes per ms times 1000
        self.register_buffer("inverse", eye.expand(lanes, -1, -1).clone())
        self.register_buffer("output", torch.zeros(lanes, 1, dtype=torch.float64))
        self.readout_weight = torch.nn.Parameter(
            torch.zeros(lanes, 1, n_neurons, dtype=torch.float64), requires_grad=False
        )
        self._aside: dict[str, Tensor] = {}  # state of a free run
        self._free: list[tuple[Tensor, Tensor]] = []

    inverse: Tensor
    encoder: Tensor
    output: Tensor

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Settle or learn for a piece."""
        output, after, learned = self._run(batch["target"], self._carried(), batch["learn"])
        for name, value in after.items():
            getattr(self, name).copy_(value)
        decoder: Tensor = self.readout_weight
        if learned.inverse is not None:
            self.inverse.copy_(learned.inverse)
            decoder = learned.decoder.to(self.device)
        self.readout_weight.grad = self.readout_weight - decoder  # the rule as an optimizer, see PredictionObject
        cast(LightningOptimizer, self.optimizers()).step()
        if batch["learn"]:
            error = (output[..., 0] - batch["target"][:, 0].cpu()).square().mean().sqrt()
            self.log("train/rms_error", error.float(), prog_bar=True, batch_size=1)

    def on_validation_epoch_start(self) -> None:
        """A free run begins with the present state."""
        self._aside, self._free = self._carried(), []

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Run free for a piece."""
        self._free.append((self._generated(batch), batch["target"][:, 0].cpu()))

    test_step = validation_step

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """What is generated in a piece: `output` and the `target`, both float64, [L, T] and [T]."""
        return {"output": self._generated(batch), "target": batch["target"][:, 0].cpu()}

    def on_validation_epoch_end(self) -> None:
        """Score it."""
        if not self.trainer.sanity_checking:
            self._score("val")

    def on_test_epoch_end(self) -> None:
        """Score it."""
        self._score("test")

    def _score(self, stage: str) -> None:
        """Frequency, amplitude and shape of what was generated, means over lanes, sampled every ms."""
        signal, target = (torch.cat(part, -1) for part in zip(*self._free, strict=True))
        dt = float(self.hparams["dt"])
        every = max(1, round(1 / dt))
        signal, target, step = signal[:, ::every], target[::every], dt * every
        period = 1000 / float(dominant_frequency(target, step))
        lags = min(round(period / 2 / step) + 1, (len(target) - 1) // 2)
        values = {
            "frequency_hz": [dominant_frequency(s, step) for s in signal],
            "amplitude_ratio": [amplitude_ratio(s, target) for s in signal],
            "correlation": [best_lag_correlation(s, target, 0) for s in signal],
            "best_lag_correlation": [best_lag_correlation(s, target, lags) for s in signal],
        }
        for name, lanes in values.items():
            self.log(f"{stage}/{name}", torch.stack(lanes).nanmean().float(), batch_size=1)
            for lane, value in enumerate(lanes):
                self.log(f"{stage}/lane_{lane}/{name}", value.float(), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Takes changes of the decoder as they are."""
        return torch.optim.SGD([self.readout_weight], lr=1.0)

    def setup(self, stage: str) -> None:
        """Refuse a signal of another time step, and several processes: a loop is not split."""
        given = getattr(getattr(self.trainer, "datamodule", None), "dt_ms", self.hparams["dt"])
        if given != self.hparams["dt"]:
            raise MisconfigurationException(f"the data have dt_ms={given}, the model dt={self.hparams['dt']}")
        if self.trainer.world_size > 1:
            raise MisconfigurationException("ForceGenerator runs in one process; its lanes run in threads")

    def _generated(self, batch: dict[str, Any]) -> Tensor:
        output, self._aside, _ = self._run(batch["target"], self._aside, learn=False)
        return output[..., 0]

    def _carried(self) -> dict[str, Tensor]:
        names = [*(f"state_{name}" for name in _CARRIED), "output"]
        return {name: getattr(self, name).cpu().clone() for name in names}

    def _run(
        self, target: Tensor, carried: dict[str, Tensor], learn: bool
    ) -> tuple[Tensor, dict[str, Tensor], LoopState]:
        """(outputs [L, T, 1], what `_carried` gives after the piece, the loop after it)."""
        lanes, steps = len(self.encoder), len(target)
        loop = ClosedLoop(
            self.encoder.cpu(),
            target.cpu().expand(lanes, -1, -1).contiguous() if learn else None,
            period=self.hparams["period"],
            stale_gain=self.hparams["stale_gain"],
        )
        held = LoopState(self.readout_weight.detach().cpu(), self.inverse.cpu() if learn else None, carried["output"])
        state_before: dict[str, Any] = {name: carried[f"state_{name}"] for name in _CARRIED}
        drive = Drive.intervals(steps, 0, [[] for _ in range(lanes)])
        trace = Trace(
            self.trace.rise, self.trace.decay, every=steps * self.hparams["dt"]
        )  # only the last sample is of use
        activity, state = self.simulate(
            self.reservoir,
            drive,
            ReservoirState(**state_before, loop=held),
            trace=trace,
            loop=loop,
            threads=self.hparams["threads"],
        )
        assert state.loop is not None
        assert activity.output is not None
        after = {f"state_{name}": getattr(state, name) for name in _CARRIED}
        return activity.output, {**after, "output": state.loop.output}, state.loop
