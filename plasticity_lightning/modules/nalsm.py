"""NALSM: a liquid state machine whose STDP is held at the edge of chaos by an astrocyte.

Three phases, in one `fit`: *initialise* shapes the liquid's weights by STDP over the training items (no labels); *features* counts every
neuron's spikes for each item, the liquid still plastic, each item with a private copy of the weights; *readout* fits a linear softmax layer
to the counts and selects it on validation accuracy. The astrocyte is the Callback `AstrocyteFeedback`; without it the same module is LSM+STDP,
with `rule="none"` a plain LSM, with `rule="ap_stdp"` LSM+AP-STDP.

Source: Ivanov & Michmizos, NeurIPS 2021, and their published code.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, cast

import torch
from torch import Tensor

from plasticity_lightning.modules.feature_readout import FeatureReadout
from plasticity_lightning.protocols import HasArrays
from plasticity_lightning.runtime.hyperparameters import from_hyperparameter, save_plain_hyperparameters
from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.encoding import SpikeTrains, ink_scale, pulse_probability, rate_encode, sample_keys
from plasticity_lightning.spiking.liquid import EngineName, LiquidActivity, LiquidState, NeuronParameters, Weights
from plasticity_lightning.spiking.liquid import engine as select_engine
from plasticity_lightning.spiking.liquid.item_batches import join_batches
from plasticity_lightning.spiking.liquid.time_readout import time_windows, windowed_counts
from plasticity_lightning.spiking.liquid.topology import Liquid, grid_liquid
from plasticity_lightning.spiking.rules import APSTDP, STDP

__all__ = ["NALSM"]

_SPLIT_KEYS = {"initialise": 0, "train": 1, "val": 2, "test": 3, "predict": 4}


class NALSM(FeatureReadout):
    """Neuron-astrocyte liquid state machine, and its baselines by configuration.

    Batches are dicts with `label` and `index` int64 [B] and either `image` [B, ...] (rate-coded here) or `events`, spike trains with the
    fields of `spiking.encoding.SpikeTrains`. Images with float values serve as well as bytes: only each pixel's share of its image counts.

    Args:
        n_inputs: input channels: pixels of an image, or 2312 for 34x34 events.
        n_classes: number of classes, at least 2.
        shape: grid of liquid neurons (d1, d2, d3); (10, 10, 10) is NALSM1000.
        input_density: fraction of (neuron, channel) pairs that are connected, in [0, 1].
        weight: initial |w| of every synapse; for a plain LSM the one free parameter (0.4 to 1.4).
        rule: plasticity rule; "none" makes the liquid static.
        rule_parameters: of either rule, or a dict of its fields; theta, delta and tau_calcium are AP-STDP's alone.
        neuron: neuron and synapse parameters, or a dict of them.
        initialise: whether the initialisation phase runs; only with a rule.
        freeze: whether the liquid is frozen while features are collected (the paper freezes AP-STDP's only).
        init_steps: ms per item in the initialisation phase.
        feature_steps: ms per item in the feature phase.
        time_bins: the readout sees each neuron's spikes in so many equal parts of these, at least 1; the paper's single count is 1.
        readout_taus: and, for each of these time constants in ms, an exponential trace of its spikes at the end. Same simulation, more features.
        rate_decay: factor per ms on all learning rates in the feature phase.
        readout: "lbfgs" and "adadelta" minimise the paper's loss, "adadelta" in the paper's way (5000 epochs); "ridge" is a closed form.
        readout_arguments: passed on to the readout solver, e.g. `{epochs: 500}`.
        scale: divides the ink fraction of a pixel; None takes the maximum over the data module's whole training file.
        test_scale: "own" divides test images by their own maximum: the paper's flaw, it uses a statistic of the test set.
        feature_scaling: "batch" divides features by the maximum of each batch of 250: the paper's flaw, features depend on batch composition.
        carry_trace: where STDP traces are carried from item to item. "initialise", one continuous stream of items, is the default: traces
            outlive the 20 ms of an item, and resetting them there ("none") leaves the liquid overactive. "both" also carries them through
            the features, as the published code does: features then depend on the order of the items.
        engine: simulation back end.
        threads: CPU threads of the engine; None takes all.
        cache_dir: where features are kept; None is `features` inside the run's directory.
        seed: root of every random choice of the network and the encoding.

    Raises:
        ValueError: if an argument is outside its range or two of them contradict each other.

    Source: Ivanov & Michmizos 2021.
    """

    measures = ("liquid_spikes_per_ms", "input_spikes_per_ms", "depression_rate")
    positions: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    trace: Tensor
    calcium: Tensor
    input_scale: Tensor
    windows: Tensor

    def __init__(
        self,
        n_inputs: int = 784,
        n_classes: int = 10,
        shape: tuple[int, int, int] = (10, 10, 10),
        input_density: float = 0.15,
        weight: float = 3.0,
        rule: Literal["none", "stdp", "ap_stdp"] = "stdp",
        rule_parameters: APSTDP = APSTDP(),  # noqa: B008 - frozen dataclass, and the CLI shows its fields
        neuron: NeuronParameters = NeuronParameters(),  # noqa: B008
        initialise: bool = True,
        freeze: bool = False,
        init_steps: int = 20,
        feature_steps: int = 250,
        time_bins: int = 1,
        readout_taus: tuple[float, ...] = (),
        rate_decay: float = 0.99,
        readout: Literal["lbfgs", "adadelta", "ridge"] = "lbfgs",
        readout_arguments: dict[str, Any] | None = None,
        scale: float | None = None,
        test_scale: Literal["train", "own"] = "train",
        feature_scaling: Literal["train", "batch"] = "train",
        carry_trace: Literal["none", "initialise", "both"] = "initialise",
        engine: EngineName = "auto",
        threads: int | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        rule_parameters = from_hyperparameter(APSTDP, rule_parameters)
        neuron = from_hyperparameter(NeuronParameters, neuron)
        generator = torch.Generator().manual_seed(seed)
        liquid = grid_liquid(shape, n_inputs, weight=weight, input_density=input_density, generator=generator)
        for name, value in (("init_steps", init_steps), ("feature_steps", feature_steps)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1 ms")
        windows = time_windows(feature_steps, time_bins, readout_taus)
        kept = "float32" if readout_taus else "int16"
        super().__init__(
            n_classes, len(windows) * liquid.n_neurons, readout, readout_arguments, feature_scaling, cache_dir, kept
        )
        if rule not in ("none", "stdp", "ap_stdp"):
            raise ValueError(f"rule={rule!r} must be 'none', 'stdp' or 'ap_stdp'")
        if rule == "none" and initialise:
            raise ValueError("initialise=True needs a plasticity rule: with rule='none' set initialise=False")
        if rule != "none" and weight > rule_parameters.w_max:
            raise ValueError(f"weight={weight} must not exceed the rule's w_max={rule_parameters.w_max}")
        if carry_trace not in ("none", "initialise", "both"):
            raise ValueError(f"carry_trace={carry_trace!r} must be 'none', 'initialise' or 'both'")
        if test_scale not in ("train", "own"):
            raise ValueError(f"test_scale={test_scale!r} must be 'train' or 'own'")
        if not 0 < rate_decay <= 1:
            raise ValueError(f"rate_decay={rate_decay} must lie in (0, 1]")
        if scale is not None and scale <= 0:
            raise ValueError(f"scale={scale} must be positive")
        save_plain_hyperparameters(self)
        self.modulator: Astrocyte | None = None
        self.modulation: Tensor | None = None
        self.neuron = neuron
        self.rule = {"none": None, "stdp": _plain_stdp(rule_parameters), "ap_stdp": rule_parameters}[rule]
        self.simulate = select_engine(engine)
        self.n_inputs, self.n_neurons, self.n_excitatory = n_inputs, liquid.n_neurons, liquid.n_excitatory
        self.register_buffer("positions", liquid.positions)
        self.register_buffer("source", liquid.source)
        self.register_buffer("target", liquid.target)
        self.register_buffer("weight", liquid.weight.double())
        self.register_buffer("trace", torch.zeros(liquid.n_sources, dtype=torch.float64))
        self.register_buffer("calcium", torch.zeros(liquid.n_neurons, dtype=torch.float64))
        self.register_buffer("input_scale", torch.tensor(scale or 0.0, dtype=torch.float64))
        self.register_buffer("windows", windows, persistent=False)
        self.phase = "initialise" if initialise else "features"
        self._own_scale: float | None = None

    # what callbacks see

    @property
    def liquid(self) -> Liquid:
        """The network with its current weights, rounded to float32; the exact ones are `weight`."""
        return Liquid(
            self.n_inputs,
            self.n_neurons,
            self.n_excitatory,
            self.positions.cpu(),
            self.source.cpu(),
            self.target.cpu(),
            self.weight.float().cpu(),
        )

    def record(self, batch: dict[str, Any]) -> LiquidActivity:
        """Simulate a batch of validation items as in feature extraction, with every liquid spike recorded."""
        return self._simulate_features(batch, "val", record=True, keep_trace=False)

    # the phases

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """One chunk of items (initialise, features) or one step of the readout solver (readout)."""
        if self.phase == "initialise":
            self._initialise(batch)
            self.count_step()
            return
        if self.phase == "readout":
            self.modulation = None  # nothing is simulated any more
        super().training_step(batch, batch_idx)

    def next_phase(self) -> None:
        """From the initialisation to the features, and on."""
        if self.phase == "initialise":
            self.phase = "features"
        else:
            super().next_phase()

    def make_features(self, batch: dict[str, Any], split: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Spike counts int32 [B, N], or float32 [B, K * N] of K bins and traces; and each item's activity."""
        plain = len(self.windows) == 1
        activity = self._simulate_features(batch, split, record=not plain)
        # in numpy a row's mean does not depend on the other rows
        measured = {name: values.double().numpy().mean(1) for name, values in _per_item(activity).items()}
        counts = activity.counts if plain else windowed_counts(cast(Tensor, activity.spikes), self.windows.cpu())
        return counts, {name: torch.from_numpy(values) for name, values in measured.items()}

    def tell_measured(self, measured: dict[str, Tensor]) -> None:
        """Spikes per step, firing rate, and the depression rate for `AstrocyteFeedback`."""
        self.modulation = measured.get("depression_rate")
        self._log_activity(measured, "features")

    @property
    def features_follow_order(self) -> bool:
        """True where the plastic liquid carries its traces from item to item."""
        return self.hparams["carry_trace"] == "both" and self.rule is not None and not self.hparams["freeze"]

    def advice_if_silent(self) -> str:
        """A liquid that never fired needs more drive."""
        return (
            f"the liquid never fired; raise weight={self.hparams['weight']}, "
            f"input_density={self.hparams['input_density']} or feature_steps={self.hparams['feature_steps']}"
        )

    # set-up, checkpoints

    def setup(self, stage: str) -> None:
        """Find the input scale."""
        data = getattr(self.trainer, "datamodule", None)
        if self.hparams["scale"] is None and isinstance(data, HasArrays):
            if float(self.input_scale) == 0:
                self.input_scale.fill_(ink_scale(data.arrays("train_file")[0]))
            if self.hparams["test_scale"] == "own" and stage == "test":
                self._own_scale = ink_scale(data.arrays("test_file")[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the astrocyte too: it is part of a plastic liquid."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["nalsm"] = {"astrocyte": None if self.modulator is None else vars(self.modulator).copy()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it; an astrocyte given by a callback takes precedence."""
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint["nalsm"]["astrocyte"]
        if self.modulator is None and kept is not None:
            self.modulator = Astrocyte(**kept)

    def fingerprint(self) -> str:
        """Hash of the network with its weights, the encoding, rule, neuron, astrocyte and readout windows."""
        digest = hashlib.sha256()
        for tensor in (self.source, self.target, self.weight, self.input_scale, self.windows):
            digest.update(tensor.cpu().numpy().tobytes())
        names = ("freeze", "feature_steps", "rate_decay", "test_scale", "carry_trace", "seed")
        digest.update(repr([(n, self.hparams[n]) for n in names]).encode())
        digest.update(repr((self.rule, self.neuron, self.modulator)).encode())
        return digest.hexdigest()[:16]

    # private

    def _initialise(self, batch: dict[str, Any]) -> None:
        batch = _gathered(batch, self.trainer.world_size)
        trains = self._encode(batch, "initialise", self.hparams["init_steps"])
        carry = self.hparams["carry_trace"] != "none"
        state = LiquidState(
            self.weight.cpu(),
            self.trace.cpu() if carry else None,
            self.calcium.cpu() if self.hparams["rule"] == "ap_stdp" else None,
        )
        activity, after = self._run(trains, state, "carried", 1.0, self.rule)
        self.weight.copy_(after.weight)
        if after.trace is not None:
            self.trace.copy_(after.trace)
        if after.calcium is not None:
            self.calcium.copy_(after.calcium)
        if self.trainer.world_size > 1:
            torch.distributed.broadcast(self.weight, 0)
        self._log_activity(_per_item(activity), "initialise")

    def _simulate_features(
        self, batch: dict[str, Any], split: str, record: bool = False, keep_trace: bool = True
    ) -> LiquidActivity:
        trains = self._encode(batch, split, self.hparams["feature_steps"])
        frozen = self.hparams["freeze"]
        carry = self.features_follow_order
        state = LiquidState(self.weight.cpu(), self.trace.cpu() if carry else None)
        rule = None if frozen else self.rule
        activity, after = self._run(trains, state, "private", self.hparams["rate_decay"], rule, record)
        if carry and keep_trace and after.trace is not None:
            self.trace.copy_(after.trace)
        return activity

    def _run(
        self,
        trains: SpikeTrains,
        state: LiquidState,
        weights: Weights,
        rate_decay: float,
        rule: STDP | None,
        record: bool = False,
    ) -> tuple[LiquidActivity, LiquidState]:
        activity, after = self.simulate(
            self.liquid,
            trains,
            state,
            neuron=self.neuron,
            rule=rule,
            astrocyte=None if rule is None else self.modulator,
            weights=weights,
            rate_decay=rate_decay,
            record=record,
            threads=self.hparams["threads"],
        )
        self.modulation = activity.modulation
        return activity, after

    def _encode(self, batch: dict[str, Any], split: str, n_steps: int) -> SpikeTrains:
        keys = sample_keys(self.hparams["seed"] * len(_SPLIT_KEYS) + _SPLIT_KEYS[split], batch["index"].cpu())
        if "image" in batch:
            images = batch["image"].cpu()
            if images[0].numel() != self.n_inputs:
                raise ValueError(f"images have {images[0].numel()} values, the network n_inputs={self.n_inputs}")
            scale = self._own_scale if split == "test" and self._own_scale is not None else float(self.input_scale)
            if scale == 0:
                raise ValueError("scale is unknown: give NALSM(scale=...), or a data module with `arrays(split)`")
            return rate_encode(pulse_probability(images, scale), keys, n_steps)
        events = batch["events"]
        if events.n_channels != self.n_inputs:
            raise ValueError(f"recordings have {events.n_channels} channels, the network n_inputs={self.n_inputs}")
        trains = SpikeTrains(events.offsets.cpu(), events.channels.cpu(), int(events.n_steps), self.n_inputs)
        if trains.n_steps < n_steps:
            raise ValueError(f"recordings last {trains.n_steps} ms, this phase needs {n_steps} ms")
        start = torch.zeros(len(keys), dtype=torch.int64)
        if split == "initialise":  # the paper draws windows from {1..278} of 300 ms
            start = 1 + (keys & 0x7FFFFFFF) % max(trains.n_steps - n_steps - 2, 1)
        return trains.window(start.clamp(max=trains.n_steps - n_steps), n_steps)

    def _log_activity(self, measured: dict[str, Tensor], phase: str) -> None:
        values = {
            f"{phase}/{name}": measured[name].double().mean().float()
            for name in ("liquid_spikes_per_ms", "input_spikes_per_ms")
            if name in measured
        }
        if "liquid_spikes_per_ms" in measured:
            values[f"{phase}/firing_rate_hz"] = values[f"{phase}/liquid_spikes_per_ms"] * 1000.0 / self.n_neurons
        self.log_dict(values, batch_size=1)


def _per_item(activity: LiquidActivity) -> dict[str, Tensor]:
    """What is told of a batch, [B, T] each, by the names of `NALSM.measures`."""
    return dict(zip(NALSM.measures, (activity.n_liquid, activity.n_input, activity.modulation), strict=True))


def _plain_stdp(parameters: APSTDP) -> STDP:
    return STDP(parameters.lr, parameters.trace_increment, parameters.trace_decay, parameters.w_max)


def _gathered(batch: dict[str, Any], world_size: int) -> dict[str, Any]:
    """The batches of all ranks as one, in order of rank: every rank then simulates the same items, and holds the same weights."""
    if world_size == 1:
        return batch
    everyone: list[Any] = [None] * world_size
    mine = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in batch.items()}
    torch.distributed.all_gather_object(everyone, mine)
    return join_batches(everyone)
