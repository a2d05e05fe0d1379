"""What interventions on single units share: the trace of the unit graph, the layers it may touch, and the surgery.

The trace watches torch's functions between the start of a batch and its end, so it sees the module's own training step,
functional code included; code compiled by `torch.compile` runs eagerly meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from plasticity_lightning.callbacks.interventions.triggered import (
    broadcast,
    optimizers_of,
    trained_parameters,
)
from plasticity_lightning.interventions.initialise import Initialiser
from plasticity_lightning.interventions.optimizer_state import Moments, forget_moments
from plasticity_lightning.interventions.unit_graph import UnitGraph, UnitLayer, UnitTracer
from plasticity_lightning.interventions.unit_surgery import (
    Touched,
    compensate_biases,
    recycle_incoming,
    silence_outgoing,
)
from plasticity_lightning.runtime.overlap import EagerExecution, hold, release

__all__ = ["UnitWatch", "replace_units"]


class UnitWatch:
    """Traces batches and knows which layers' units may be replaced.

    Args:
        patterns: shell patterns over the names of the producing layers.
        layers: explicit producer -> consumers, used in place of what is traced, for networks that the trace gives up
            on; a consumer's inputs must be a multiple of the producer's units.
        owner: name of the callback, for messages.
    """

    def __init__(self, patterns: Sequence[str], layers: Mapping[str, list[str]] | None, owner: str) -> None:
        self.patterns, self.layers, self.owner = list(patterns), dict(layers or {}), owner
        self.graph: UnitGraph = {}
        self._told: set[str] = set()
        self._tracer: UnitTracer | None = None
        self._eager: EagerExecution | None = None

    @property
    def running(self) -> bool:
        """Whether a batch is being traced."""
        return self._tracer is not None

    def check(self, pl_module: LightningModule) -> None:
        """Raise MisconfigurationException for names in `layers` that are no layers, or patterns without a match."""
        names = dict(pl_module.named_modules())
        for name in {*self.layers, *(c for consumers in self.layers.values() for c in consumers)}:
            if not hasattr(names.get(name), "weight"):
                raise MisconfigurationException(
                    f"{self.owner}: layers names {name!r}, which is no layer with a weight; there are "
                    f"{[n for n, m in names.items() if hasattr(m, 'weight')]}"
                )
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names if name):
                raise MisconfigurationException(
                    f"{self.owner}: modules={pattern!r} matches no module; there are {[n for n in names if n]}"
                )

    def start(self, pl_module: LightningModule, on_activation: Callable[[str, Tensor], None]) -> None:
        """Watch what runs from now on."""
        self.stop()
        self._eager, self._tracer = EagerExecution(), UnitTracer(pl_module, self.graph, on_activation)
        hold(self._eager)
        hold(self._tracer)

    def stop(self) -> None:
        """Watch no more; may be called at any time."""
        if self._tracer is not None and self._eager is not None:
            release(self._tracer)
            release(self._eager)
        self._tracer = self._eager = None

    def replaceable(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, UnitLayer]:
        """Producers whose units may be replaced; those with a nonlinearity that may not are named once, with the reason."""
        trained = {id(p) for p in trained_parameters(trainer, pl_module).values()}
        modules = dict(pl_module.named_modules())
        found, skipped = {}, []
        for name, traced in self.graph.items():
            layer = self._explicit(name, traced, modules) if name in self.layers else traced
            chosen = name in self.layers if self.layers else any(fnmatchcase(name, p) for p in self.patterns)
            weight = modules[name].weight
            if not chosen or id(weight) not in trained:
                continue
            if layer.replaceable:
                found[name] = layer
            elif layer.active and name not in self._told:
                skipped.append(f"{name} ({layer.opaque or 'no layer reads it'})")
                self._told.add(name)
        if skipped:
            rank_zero_warn(
                f"{self.owner} leaves the units of these layers alone: {', '.join(skipped)}. Name their consumers in "
                "`layers` if replacing their units is meant, or choose others by `modules`."
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """The graph, in plain types."""
        return {name: dict(vars(layer)) for name, layer in self.graph.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the graph up again."""
        self.graph.clear()
        self.graph.update({name: UnitLayer(**layer) for name, layer in state.items()})

    def _explicit(self, name: str, traced: UnitLayer, modules: dict[str, nn.Module]) -> UnitLayer:
        consumers = {}
        for consumer in self.layers[name]:
            inputs = getattr(modules[consumer], "in_features", getattr(modules[consumer], "in_channels", 0))
            if not inputs or inputs % traced.units:
                raise MisconfigurationException(
                    f"{self.owner}: layers says that {consumer!r} reads {name!r}, but its {inputs} inputs are no multiple "
                    f"of the {traced.units} units"
                )
            consumers[consumer] = inputs // traced.units
        return UnitLayer(traced.units, consumers, traced.norms, traced.active)


@torch.no_grad()
def replace_units(
    trainer: Trainer,
    pl_module: LightningModule,
    graph: Mapping[str, UnitLayer],
    units: Mapping[str, Tensor],
    seeds: Mapping[str, int],
    moments: Moments,
    init: Initialiser | None = None,
    means: Mapping[str, Tensor] | None = None,
) -> None:
    """New incoming weights and no outgoing ones for some units of some layers; moments and ranks follow.

    Args:
        trainer: gives the optimisers and the ranks.
        pl_module: owns the layers.
        graph: layer by name.
        units: name -> bool [U], True for those to replace, the same on all ranks.
        seeds: name -> seed of its new weights.
        moments: what happens to the moments of the touched entries.
        init: see `fresh_layer`.
        means: name -> mean activation of its units [U]; given, the biases downstream take over what is lost.
    """
    modules = dict(pl_module.named_modules())
    touched: list[Touched] = []
    biases: list[Tensor] = []
    for name, mean in (means or {}).items():
        consumers = {consumer: modules[consumer] for consumer in graph[name].consumers}
        biases += compensate_biases(graph[name], consumers, units[name], mean)
    # all incoming weights first: between two layers of replaced units, the outgoing zero has the last word
    for name, mask in units.items():
        norms = {norm: modules[norm] for norm in graph[name].norms}
        touched += recycle_incoming(modules[name], norms, mask, seeds[name], init)
    for name, mask in units.items():
        consumers = {consumer: modules[consumer] for consumer in graph[name].consumers}
        touched += silence_outgoing(graph[name], consumers, mask)
    broadcast(trainer, {id(p): p for p in (*biases, *(t.parameter for t in touched))}.values())
    if moments == "zero":
        for parameter, entries in touched:
            forget_moments(optimizers_of(trainer), parameter, entries)
