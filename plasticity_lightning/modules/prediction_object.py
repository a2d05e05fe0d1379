"""The prediction object.

What comes next, when and with what probability, read from one spiking reservoir and learned without backpropagation.

A trial a batch, lanes (seeds) in parallel. *Simulate*: the reservoir, open loop, carries its state from trial to
trial. *Normalise*: homeostasis. *Read*: z_when and z_k, before anything is learned from the trial. *Learn*: time
online within the trial, identities offline after it; or a foil's rule on the same input. The attention gate and the
error's part are the Callback `ErrorModulation`; without it the rule's own defaults hold.

Source: an independent model of what Yamada & Chao (arXiv 2510.14382) report: of the paper only abstracts are known.
See docs/papers/prediction_object.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.errors import UserError
from plasticity_lightning.measures.prediction import timing_error
from plasticity_lightning.measures.prediction_record import PredictionRecord, scores
from plasticity_lightning.modules.lane_exchange import exchange_lanes
from plasticity_lightning.modules.reservoir_trials import CarriedState, ReservoirTrials, lanes_of
from plasticity_lightning.readouts.homeostasis import Homeostasis
from plasticity_lightning.readouts.learner import Trial
from plasticity_lightning.readouts.learners import learner_named
from plasticity_lightning.readouts.modulation import Modulation
from plasticity_lightning.runtime.hyperparameters import from_hyperparameter, save_plain_hyperparameters
from plasticity_lightning.spiking.izhikevich_populations import NeuronSpread
from plasticity_lightning.spiking.reservoir import EngineName, ReservoirActivity, ReservoirOptions, SplitExponentials
from plasticity_lightning.spiking.threads import available_threads

__all__ = ["PredictionObject"]

# hyperparameters are part of checkpoints, which are read with weights_only=True
torch.serialization.add_safe_globals([ReservoirOptions, NeuronSpread, SplitExponentials])

_PROBE_SCORES = ("timing_error_ms", "anticipation_ms", "r", "slope", "intercept", "off_time")  # of one phase alone


class PredictionObject(pl.LightningModule):
    """Reservoir, homeostasis and readouts; every rule of `readouts.learners.LEARNERS` runs the same protocol.

    Batches are those of `PredictionTaskDataModule`. Lane l has the network and the noise of seed `seed + l`, whatever
    the other lanes are. Validation and prediction show probes of the present world from the present state, which does
    not move: nothing is learned from them.

    Args:
        reservoir: how a lane's network is drawn; `n_channels` must be the data's cues, outcomes and distractors.
        n_outcomes: K, as in the data.
        lanes: L, as in the data.
        seed: of the first lane.
        rule: "three_factor" is the prediction object; "lms", "force", "rls" and "ridge" are foils; or the
            import path of a learner of yours.
        rule_arguments: options of the rule, see `readouts.online_learners` and `readouts.supervised_learners`.
        reset_phases: phases of the protocol at whose first trial the rule forgets its history, not its weights.
        deviation_floor: Hz added to each neuron's deviation, positive.
        inhibition: whether the population's mean is subtracted at each instant.
        homeostasis_tau: time constant of the running statistics in trials; None: the average over the lead-in, then
            frozen.
        engine: simulation back end.
        threads: CPU threads over lanes; None takes all.
        cache_dir: where states are kept for other runs; None keeps none.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        reservoir: ReservoirOptions = ReservoirOptions(),  # noqa: B008 - frozen dataclass, and the CLI shows its fields
        n_outcomes: int = 2,
        lanes: int = 1,
        seed: int = 0,
        rule: str = "three_factor",
        rule_arguments: dict[str, Any] | None = None,
        reset_phases: list[int] | None = None,
        deviation_floor: float = 2.0,
        inhibition: bool = True,
        homeostasis_tau: float | None = None,
        engine: EngineName = "auto",
        threads: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("n_outcomes", n_outcomes, 1), ("lanes", lanes, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
        save_plain_hyperparameters(self)
        reservoir = from_hyperparameter(ReservoirOptions, reservoir)
        self.automatic_optimization = False
        self.options, self.n_outcomes, self.n_lanes = reservoir, n_outcomes, lanes
        self.n_excitatory = round(reservoir.excitatory_fraction * reservoir.n_neurons)
        self.learner = learner_named(rule, rule_arguments)
        self.error_modulation: Modulation | None = None
        self.plasticity_gain = 1.0  # factor on all errors, for a callback to set, such as AstrocyteFeedback
        # spikes and stimuli of a trial pass through these, so that a callback's hooks can sense them
        self.population, self.stimulus = torch.nn.Identity(), torch.nn.Identity()
        self.reservoir = ReservoirTrials(reservoir, seed, engine, threads, cache_dir)
        self.homeostasis = Homeostasis(lanes, reservoir.n_neurons, deviation_floor, inhibition, homeostasis_tau)
        state = self.learner.start(lanes, n_outcomes, reservoir.n_neurons)
        self.readout_weight = torch.nn.Parameter(state.pop("weight"), requires_grad=False)
        self._rule_state = list(state)
        for name, initial in state.items():
            self.register_buffer(f"rule_{name}", initial)
        for name, initial in self.reservoir.start(lanes).items():
            self.register_buffer(f"state_{name}", initial)
        self.record = PredictionRecord(lanes, n_outcomes, self.learner.product)
        self.last_input: Tensor | None = None
        self._lanes, self._last_phase = range(lanes), -1
        self._aside: CarriedState = {}  # of the probes beside the protocol, shown in the world of phase `_world`
        self._world = 0
        self._probes = PredictionRecord(lanes, n_outcomes, self.learner.product)

    # a trial

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Simulate, normalise, read, record; then learn, unless it is a probe or the lead-in."""
        self._take_lanes(batch)
        mine = self._slice
        activity, spikes, after = self.reservoir.run(
            batch, self._carried(mine), interval=self._modulation.gate == "always"
        )
        for name, value in after.items():
            getattr(self, f"state_{name}")[mine] = value.to(self.device)
        activity = activity.to(self.device)
        samples = batch["trial_ms"] // int(self.reservoir.trace.every)
        self.population(spikes.to(self.device))
        self.stimulus(_shown(batch, len(spikes)))
        if batch["lead_in"] or self.homeostasis.tau is not None:
            self.homeostasis.update(activity[:, :samples], mine)
        if not batch["lead_in"]:
            self._require_statistics()
        x = self.homeostasis(activity, mine)
        self.last_input = x
        self.record.add(batch, self._read(x[:, :samples]), self.sample_times(batch, samples))
        values = {} if batch["lead_in"] else self._learn(batch, x)
        self._log(batch, values)

    def sample_times(self, batch: dict[str, Any], n_samples: int) -> Tensor:
        """Times of samples in ms after cue onset [T]; a sample at t has seen the steps before t only."""
        return (torch.arange(n_samples, device=self.device) + 1) * self.reservoir.trace.every - batch["time_zero_ms"]

    def _learn(self, batch: dict[str, Any], x: Tensor) -> dict[str, Tensor]:
        mine = self._slice
        phase = int(batch["phase"])
        if phase in (self.hparams["reset_phases"] or []) and phase != self._last_phase:
            self._set_rule(slice(None), self.learner.reset(self._rule(slice(None))))
        self._last_phase = phase
        trial = Trial(
            self.sample_times(batch, x.shape[1]),
            batch["onset_ms"],
            batch["outcome"],
            (~batch["probe"]).to(x.dtype),
            batch["duration_ms"] - batch["time_zero_ms"],
        )
        before = self._rule(mine)
        after, values = self.learner.learn(before, x, trial, self._modulation, self._threads)
        self._set_rule(mine, after)
        # the rule as an optimizer: a change of weights is a negative gradient, so steps, hooks and checkpoints count it
        change = torch.zeros_like(self.readout_weight)
        change[mine] = before["weight"] - after["weight"].to(before["weight"])
        if self.trainer.world_size > 1:  # lanes are disjoint: the sum over ranks is every lane's own change
            torch.distributed.all_reduce(change)
        self.readout_weight.grad = change
        cast(LightningOptimizer, self.optimizers()).step()
        return values

    def _read(self, x: Tensor) -> Tensor:
        rows = self.readout_weight[self._slice, : 1 + self.n_outcomes]
        return x.to(rows.dtype) @ rows.transpose(1, 2)

    def _log(self, batch: dict[str, Any], values: dict[str, Tensor]) -> None:
        if bool(batch["probe"].any()):
            probes = batch["probe"].cpu()
            line = self.record.trials_line(-1)
            peak = line["peak_ms"][batch["lane"].cpu()][probes]
            error = timing_error(peak, batch["latencies_ms"].cpu()[probes])
            if bool(error.isfinite()):
                self.log("probe/timing_error_ms", error, batch_size=1)
        for name, value in values.items():
            self.log(f"train/{name}", value.float().mean(), batch_size=1)
        self.log("train/phase", float(batch["phase"]), batch_size=1)

    # probes beside the protocol, and the end

    def on_validation_epoch_start(self) -> None:
        """Probes start from the present state, in a copy."""
        self._aside = self._carried(slice(None))
        self._probes = PredictionRecord(self.n_lanes, self.n_outcomes, self.learner.product)

    on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Read a probe."""
        if not self.trainer.sanity_checking:
            z, time = self._probe(batch)
            self._probes.add(batch | {"phase": 0}, z, time)
            self._world = int(batch["phase"])

    def on_validation_epoch_end(self) -> None:
        """Score the probes against the world that they were shown in: means over lanes."""
        if not len(self._probes):
            return
        exchange_lanes(self._probes.lane_tensors(), self._lanes, self.trainer.world_size)
        truth = {
            name: value[self._world, None].cpu() for name, value in cast(Any, self.trainer).datamodule.truth().items()
        }
        for name, value in scores(self._probes, truth).items():
            if name in _PROBE_SCORES:
                self.log(f"val/{name}", value.nanmean().float(), batch_size=1, rank_zero_only=True)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """What is predicted after a cue that no outcome follows.

        Returns:
            `lane`, `cue` [l], `time_ms` after the cue's onset [T], `when` [l, T], `prediction` P_k(t) [l, K, T].
        """
        z, time = self._probe(batch)
        z = z.transpose(1, 2)
        prediction = self.record.predictions(z)
        return {"lane": batch["lane"], "cue": batch["cue"], "time_ms": time, "when": z[:, 0], "prediction": prediction}

    def test_step(self, truth: dict[str, Tensor], batch_idx: int) -> None:
        """Score what was recorded; means over lanes, medians for trials to adapt, and deviations (`_sd`)."""
        if not len(self.record):
            raise UserError(f"{type(self).__name__} has recorded nothing: fit it, or give --ckpt_path")
        for name, value in self.scores(truth).items():
            known = value[value.isfinite()]
            centre = value.nanmedian() if name.startswith("trials_to") else value.nanmean()
            self.log(f"test/{name}", centre.float(), batch_size=1, rank_zero_only=True)
            if self.n_lanes > 1:
                spread = known.std() if len(known) > 1 else torch.tensor(torch.nan)
                self.log(f"test/{name}_sd", spread.float(), batch_size=1, rank_zero_only=True)

    def scores(self, truth: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scores of every lane, float64 [L] each; see `measures.prediction_record.scores`."""
        return scores(self.record, {name: value.cpu() for name, value in truth.items()})

    # what callbacks see

    def recorded_spikes(self, batch: dict[str, Any]) -> ReservoirActivity:
        """A trial of the batch's lanes with every spike kept, from the present state, which does not move."""
        lanes = lanes_of(batch)
        return self.reservoir.recorded(batch, self._carried(slice(lanes.start, lanes.stop)))

    def remembered_tags(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Tags [L, M, N], their outcomes [L, M, K], newest first, and how many are filled [L].

        None for a rule without tags.
        """
        if "tag" not in self._rule_state:
            return None
        tag, outcome, filled = (self._rule(slice(None))[name] for name in ("tag", "tag_outcome", "tags"))
        return tag, outcome, filled

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Takes weight changes as they are: the rule has scaled them."""
        return torch.optim.SGD([self.readout_weight], lr=1.0)

    # set-up, checkpoints

    def setup(self, stage: str) -> None:
        """Refuse data that do not fit, and a gate that the rule would not consult."""
        data = getattr(self.trainer, "datamodule", None)
        wanted = {"n_channels": self.options.n_channels, "n_outcomes": self.n_outcomes, "lanes": self.n_lanes}
        for name, value in wanted.items():
            given = getattr(data, name, value)
            if given != value:
                where = "reservoir.n_channels" if name == "n_channels" else name
                raise MisconfigurationException(
                    f"the data have {name}={given}, the model {where}={value}: set it to {given}"
                )
        if stage == "fit" and self.error_modulation is not None and not self.learner.modulated:  # callbacks come first
            raise MisconfigurationException(
                f"rule={self.hparams['rule']!r} is supervised over the whole window and consults no ErrorModulation: "
                "remove the callback"
            )
        if stage == "fit" and self.homeostasis.tau is None and getattr(data, "lead_in_blocks", 1) == 0:
            raise MisconfigurationException(
                "lead_in_blocks=0: homeostasis has nothing to average over; give a lead-in, or homeostasis_tau=200"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring all lanes together, and keep record and phase beside the buffers."""
        self.exchange()
        truth = getattr(getattr(self.trainer, "datamodule", None), "truth", None)
        checkpoint["prediction_object"] = {
            "record": self.record.state_dict(),
            "last_phase": self._last_phase,
            "product": self.learner.product,
            "truth": None if truth is None else truth(),  # with it a checkpoint can be scored alone
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        kept = checkpoint["prediction_object"]
        self.record.load_state_dict(kept["record"])
        self._last_phase = kept["last_phase"]

    def on_train_end(self) -> None:
        """Every process has every lane's results."""
        self.exchange()

    def exchange(self) -> None:
        """Make the state of all lanes known to all processes; each has written its own lanes only."""
        buffers = [b for name, b in self.named_buffers() if b.shape[:1] == (self.n_lanes,)]
        exchange_lanes([*buffers, *self.record.lane_tensors()], self._lanes, self.trainer.world_size)

    # private

    @property
    def _slice(self) -> slice:
        return slice(self._lanes.start, self._lanes.stop)

    @property
    def _modulation(self) -> Modulation:
        held = self.error_modulation or Modulation()
        gain = max(0.0, self.plasticity_gain)  # an astrocyte's state may turn negative; errors do not change their sign
        return held if gain == 1 else replace(held, gain=held.gain * gain, offline_gain=held.offline_gain * gain)

    @property
    def _threads(self) -> int:
        return self.hparams["threads"] or available_threads()

    def _take_lanes(self, batch: dict[str, Any]) -> None:
        self._lanes = lanes_of(batch)
        if self._lanes.stop > self.n_lanes:
            raise ValueError(f"lane={list(self._lanes)} must be below lanes={self.n_lanes}")

    def _carried(self, lanes: slice) -> CarriedState:
        return {name: getattr(self, f"state_{name}")[lanes].clone() for name in self.reservoir.start(0)}

    def _probe(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """(outputs [l, T, 1 + K], times [T]) of a trial beside the protocol, whose state alone moves on."""
        self._take_lanes(batch)
        if not int(self.homeostasis.trials):
            raise UserError(f"{type(self).__name__} has learned nothing: fit it, or give --ckpt_path")
        mine = self._slice
        aside = {name: value[mine] for name, value in self._aside.items()}
        activity, _, after = self.reservoir.run(batch, aside, cached=False)
        for name, value in after.items():
            self._aside[name][mine] = value.to(self.device)
        return self._read(self.homeostasis(activity.to(self.device), mine)), self.sample_times(batch, activity.shape[1])

    def _rule(self, lanes: slice) -> dict[str, Tensor]:
        return {
            "weight": self.readout_weight[lanes],
            **{n: getattr(self, f"rule_{n}")[lanes] for n in self._rule_state},
        }

    def _set_rule(self, lanes: slice, state: dict[str, Tensor]) -> None:
        for name in self._rule_state:
            getattr(self, f"rule_{name}")[lanes] = state[name]

    def _require_statistics(self) -> None:
        if not int(self.homeostasis.trials):
            raise UserError(
                "no lead-in trial has passed before learning: homeostasis has no statistics; give homeostasis_tau"
            )
        silent = [lane for lane in self._lanes if not float(self.homeostasis.power[lane])]
        if silent:
            raise UserError(
                f"lanes {silent}: no neuron's activity varied in the lead-in, there is nothing to read out; raise reservoir.stimulus="
                f"{self.options.stimulus} or reservoir.spread.bias_excitatory={self.options.spread.bias_excitatory}"
            )


def _shown(batch: dict[str, Any], n_steps: int) -> Tensor:
    """Summed level of the stimuli at each ms, [S, l, 1]."""
    levels = torch.zeros(n_steps, len(batch["lane"]), 1)
    for row, _, on, off, level in batch["stimuli"].tolist():
        levels[int(on) : int(off), int(row)] += level
    return levels
