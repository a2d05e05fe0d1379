"""What a LightningModule may offer so that a shared Callback can act on it: small protocols, checked at run time, never class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from plasticity_lightning.measures.prediction_record import PredictionRecord
from plasticity_lightning.readouts.modulation import Modulation
from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.liquid.contract import LiquidActivity
from plasticity_lightning.spiking.liquid.topology import Liquid

__all__ = [
    "CoverageRow",
    "HasArrays",
    "HasCoverage",
    "HasErrorModulation",
    "HasLiquid",
    "HasModulator",
    "HasPhase",
    "HasPlasticityGroups",
    "HasPrediction",
    "HasProgress",
    "HasRankState",
    "HasReplayRatio",
    "HasRunLimit",
    "HasTasks",
    "RecordsEpisodes",
    "WatchesUpdates",
]


@runtime_checkable
class HasModulator(Protocol):
    """A module whose plastic synapses consult an astrocyte at every time step.

    Attributes:
        modulator: slot that `AstrocyteFeedback` fills at `setup`; None means an unmodulated rule.
        modulation: float [B, T], depression rate over the last batch, or [B], its means over time; None where nothing was simulated.
    """

    modulator: Astrocyte | None
    modulation: Tensor | None


@runtime_checkable
class HasErrorModulation(Protocol):
    """A module whose local rule asks, trial by trial, when errors act, which part of them and how strongly.

    Attributes:
        error_modulation: slot that `ErrorModulation` fills at `setup` and before each training batch; None means the rule's own defaults. The rule
            calls `readouts.modulation.attention_gate` and `modulated_error` with it.
    """

    error_modulation: Modulation | None


@runtime_checkable
class HasPrediction(Protocol):
    """A module with linear readouts of time and identity on a reservoir, lane by lane, for reports on them.

    Attributes:
        n_outcomes: K.
        n_excitatory: excitatory neurons, which come first.
        readout_weight: [L, R, N]; row 0 reads time, rows 1..K the outcomes, further rows one latency each.
        record: what was predicted so far.
        last_input: normalised states [l, T, N] of the last trial, of the lanes in its batch; None before the first.
    """

    n_outcomes: int
    n_excitatory: int
    readout_weight: Tensor
    record: PredictionRecord
    last_input: Tensor | None

    def scores(self, truth: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scores of every lane, [L] each."""

    def recorded_spikes(self, batch: Any) -> Any:
        """A trial with every spike kept (`spikes` [l, T, N]), from the present state, which does not move."""

    def remembered_tags(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Tags [L, M, N], outcomes [L, M, K], newest first, how many are filled [L]; None for a rule without tags."""


@runtime_checkable
class HasLiquid(Protocol):
    """A module built around a liquid, for reports on it."""

    weight: Tensor

    @property
    def liquid(self) -> Liquid:
        """The network."""

    def record(self, batch: Any) -> LiquidActivity:
        """Simulate a batch as in feature extraction, with its spikes recorded."""


@runtime_checkable
class HasPhase(Protocol):
    """A module whose training has phases, for the progress bar.

    Attributes:
        phase: name of the present one.
    """

    phase: str


@runtime_checkable
class HasPlasticityGroups(Protocol):
    """A module that says which of its parts belong together when its plasticity is measured."""

    def plasticity_groups(self) -> dict[str, nn.Module | list[nn.Module]]:
        """Group name -> its module or modules, all of them submodules of this one."""


@runtime_checkable
class HasProgress(Protocol):
    """A module that counts what the Trainer cannot, for schedules in units of its own; any of the keys may be absent."""

    def progress(self) -> Mapping[str, int]:
        """Counts since the beginning of the run, at least 0, that a resumed run goes on with.

        `frame`: frames of the environment, action repeats among them; `step`: its control steps; `update`: passes of
        the update rule, however many optimisers one steps; `episode`: finished episodes.
        """


class CoverageRow(NamedTuple):
    """What a Callback does with one part of a module, or why it leaves it alone."""

    callback: str
    """Class of the Callback, with its `name` argument where there may be several."""
    name: str
    """Plain name of the parameter, layer or module."""
    what: str
    """One or two words, the same for all parts that fare alike: "masked", "watched", "replaceable", "left out"."""
    reason: str
    """Why it is left out; for covered parts how, in a few words, or empty. The same words for the same reason."""


@runtime_checkable
class HasCoverage(Protocol):
    """A Callback that says what it acts on in this run, for the table that a run prints once at its start.

    To take part, a Callback implements `coverage` and calls `runtime.announce_coverage(trainer)` in `setup` for stage
    "fit". The rows are asked for on rank 0 at the end of the first training batch with an optimiser step. They must
    be cheap, read no random numbers and start no collective. A scheduler of sparse training gives one row a parameter: `CoverageRow(
    "PruneRegrowScheduler", "net.0.weight", "masked", "")`, `CoverageRow(..., "net.1.weight", "left out", "weight of a
    normalisation layer")`; a replacement of units one row a layer: "replaceable" or "left out" with the reason that the
    unit graph gives; a reset one row a layer that it will draw anew. What nobody would expect to be covered (a bias under
    a scheduler of matrices) needs no row. A callback that acts on nothing gives at least one row that says so; one that never
    does, such as a clock of the run, says "nothing of the network" and what it does.
    """

    def coverage(self, trainer: Any, pl_module: Any) -> Sequence[CoverageRow]:
        """One row for each part that is covered or left out, in the order of the module."""


@runtime_checkable
class HasRankState(Protocol):
    """A Callback that gathers something in each process for itself, such as sums over its own samples since the last step.

    `state_dict` is rank 0's alone. `runtime.AtomicCheckpoint` keeps these states of all processes, each for its own.
    They consist of tensors, numbers, strings and containers of them, and may refer to what goes on being changed.
    """

    def rank_state(self) -> Any:
        """What this process has gathered between two batches; called on every rank when a checkpoint is written."""

    def load_rank_state(self, state: Any) -> None:
        """Take it up again, with its tensors on the module's device; called after `on_train_start` of all callbacks."""


@runtime_checkable
class HasRunLimit(Protocol):
    """A Callback that ends a run at a limit of its own, as `max_epochs` does: with another one a resumed run goes on.

    Attributes:
        run_limit: where it ends the run.
    """

    run_limit: int


@runtime_checkable
class HasArrays(Protocol):
    """A data module that can hand out a whole split at once, for statistics over a data set."""

    def arrays(self, split: Any) -> tuple[Tensor, Tensor]:
        """Values [N, ...] and labels int64 [N] of a split, `"train_file"` and `"test_file"` being the whole files."""


@runtime_checkable
class HasTasks(Protocol):
    """A data module whose training data are a sequence of tasks, each a whole number of epochs long."""

    def task_of(self, epoch: int) -> int:
        """Task, from 0, that is trained in an epoch, from 0."""


@runtime_checkable
class HasReplayRatio(Protocol):
    """A module or data module that decides how often it learns from its data by a number that others may set.

    Attributes:
        replay_ratio: updates for each environment step, or passes over recent data; read again at every step.
    """

    replay_ratio: float


@runtime_checkable
class RecordsEpisodes(Protocol):
    """A module that can keep the pictures of an episode that it plays in validation or test.

    Attributes:
        record_scenes: side in pixels of the pictures to keep of the next evaluation's first episode; 0 keeps none.
    """

    record_scenes: int

    def recorded_scenes(self) -> Tensor | None:
        """The pictures, uint8 [T, H, W, 3], or None."""


@runtime_checkable
class WatchesUpdates(Protocol):
    """A Callback that overrides hooks inside an update, but needs them in some batches only.

    In the others updates may be launched as recorded graphs, which call no hooks; see `runtime.watching`.
    """

    @property
    def watching(self) -> bool:
        """Whether it needs the hooks of this batch; asked after `on_train_batch_start`."""
