"""What a LightningModule may offer so that a shared Callback can act on it: small protocols, checked at run time, never class names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from plasticity_lightning.spiking.astrocyte import Astrocyte
from plasticity_lightning.spiking.liquid.contract import LiquidActivity
from plasticity_lightning.spiking.liquid.topology import Liquid

__all__ = ["HasLiquid", "HasModulator", "HasPlasticityGroups", "HasProgress", "HasTasks"]


@runtime_checkable
class HasModulator(Protocol):
    """A module whose plastic synapses consult an astrocyte at every time step.

    Attributes:
        modulator: slot that `AstrocyteFeedback` fills at `setup`; None means an unmodulated rule.
        modulation: float [B, T], depression rate over the last batch, or None before the first.
    """

    modulator: Astrocyte | None
    modulation: Tensor | None


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


@runtime_checkable
class HasTasks(Protocol):
    """A data module whose training data are a sequence of tasks, each a whole number of epochs long."""

    def task_of(self, epoch: int) -> int:
        """Task, from 0, that is trained in an epoch, from 0."""
