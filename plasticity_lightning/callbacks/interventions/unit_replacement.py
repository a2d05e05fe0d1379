"""What interventions on single units share: the trace of the unit graph, the layers it may touch, and the surgery.

The trace watches torch's functions between the start of a batch and its end, so it sees the module's own training step,
functional code included; code compiled by `torch.compile` runs eagerly meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from plasticity_lightning.interventions.initialise import Initialiser, initialiser_of, not_redrawable
from plasticity_lightning.interventions.optimizer_state import Moments, forget_moments
from plasticity_lightning.interventions.unit_graph import UnitGraph, UnitLayer, UnitTracer, in_dim
from plasticity_lightning.interventions.unit_surgery import (
    Touched,
    compensate_biases,
    incoming_parts,
    recycle_incoming,
    renew_norms,
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
        init: see `fresh_layer`.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        layers: Mapping[str, list[str]] | None,
        owner: str,
        init: Initialiser | None = None,
    ) -> None:
        self.patterns, self.layers, self.owner, self.init = list(patterns), dict(layers or {}), owner, init
        self.graph: UnitGraph = {}
        self._told: set[str] = set()
        self._looked = False
        self._tracer: UnitTracer | None = None
        self._eager: EagerExecution | None = None

    @property
    def running(self) -> bool:
        """Whether a batch is being traced."""
        return self._tracer is not None

    def check(self, pl_module: LightningModule) -> None:
        """Before a run: raise MisconfigurationException for names in `layers` that are no layers, or patterns without a match."""
        self._looked = False
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
        """Units that may be replaced now; the others that were chosen are named once, with the reason."""
        found, reasons = self.reasons(trainer, pl_module)
        untold = {name: why for name, why in reasons.items() if name not in self._told}
        # a network of which nothing can be replaced is told in full, else only its hidden layers
        hidden = {name for name, layer in self.graph.items() if layer.active}
        told = {name: why for name, why in untold.items() if not found or name in hidden}
        self._told.update(told)
        if told:
            rank_zero_warn(
                f"{self.owner} leaves the units of these layers alone: "
                + ", ".join(f"{name} ({why})" for name, why in told.items())
                + ". Name their consumers in `layers` if replacing their units is meant, or choose others by `modules`."
            )
        return found

    def reasons(self, trainer: Trainer, pl_module: LightningModule) -> tuple[dict[str, UnitLayer], dict[str, str]]:
        """(units that may be replaced, why not for each of the other chosen layers) by what has been traced so far."""
        trained = {id(p) for p in trained_parameters(trainer, pl_module).values()}
        modules = dict(pl_module.named_modules())
        found: dict[str, UnitLayer] = {}
        left: dict[str, str] = {}
        for name, traced in self.graph.items():
            sources = [part[0] for part in traced.parts] or [name]
            if traced.cut or not self._chosen(name, sources):
                continue
            layer = self._explicit(name, traced, modules) if name in self.layers else traced
            inits = [initialiser_of(pl_module, source, self.init) for source in sources]
            why = _why_not(layer, [modules[source] for source in sources], trained, inits)
            if why:
                left[name] = why
            else:
                found[name] = layer
        seen = {name for name, layer in self.graph.items()} | {
            part[0] for layer in self.graph.values() for part in layer.parts
        }
        for name, module in modules.items():
            if name not in seen and self._chosen(name, [name]) and (why := _unseen(module)):
                left[name] = why
        return found, left

    def peeks(self, pl_module: LightningModule) -> bool:
        """Whether the next batch should be watched only to know the layers: the first of a run, if no code is compiled."""
        # compiled code would run eagerly in that batch, with slightly other results
        if self.graph or self._looked or any(_compiled(module) for module in pl_module.modules()):
            return False
        self._looked = True
        return True

    def covers(self, trainer: Trainer, pl_module: LightningModule) -> list[tuple[str, str, str]]:
        """(name, what, reason) of the chosen layers, for the table of coverage."""
        if not self.graph and not self._looked:
            return [(" ".join(self.patterns), "not known yet", "compiled code is looked at when an event is due")]
        found, left = self.reasons(trainer, pl_module)
        rows = [(name, "replaceable", "") for name in found] + [(name, "left out", why) for name, why in left.items()]
        return rows or [(" ".join(self.patterns), "left out", "no layer with a matrix")]

    def _chosen(self, name: str, sources: list[str]) -> bool:
        if self.layers:
            return name in self.layers
        return any(fnmatchcase(source, pattern) for source in (name, *sources) for pattern in self.patterns)

    def forget(self) -> None:
        """Forget the layers of another fit."""
        self.graph.clear()
        self._told.clear()
        self._looked = False

    def state_dict(self) -> dict[str, Any]:
        """The graph, in plain types, and whether a batch has been looked at for it."""
        return {"layers": {name: dict(vars(layer)) for name, layer in self.graph.items()}, "looked": self._looked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the graph up again."""
        self.graph.clear()
        self.graph.update({name: UnitLayer(**layer) for name, layer in state["layers"].items()})
        self._looked = state["looked"]

    def _explicit(self, name: str, traced: UnitLayer, modules: dict[str, nn.Module]) -> UnitLayer:
        consumers = {}
        for consumer in self.layers[name]:
            weight = modules[consumer].weight
            assert isinstance(weight, Tensor)
            inputs = weight.shape[traced.reads.get(consumer, in_dim(modules[consumer]))]
            if inputs % traced.units:
                raise MisconfigurationException(
                    f"{self.owner}: layers says that {consumer!r} reads {name!r}, but its {inputs} inputs are no multiple "
                    f"of the {traced.units} units"
                )
            consumers[consumer] = inputs // traced.units
        return replace(traced, consumers=consumers, opaque="")


def _compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or isinstance(module, torch._dynamo.OptimizedModule)


def _why_not(layer: UnitLayer, sources: list[nn.Module], trained: set[int], inits: list[Initialiser | None]) -> str:
    """Why the units of a traced layer must stay, or an empty string."""
    if layer.opaque:
        return layer.opaque
    if not layer.active:
        return "no nonlinearity follows"
    if not layer.consumers:
        return "no layer reads it"
    if any(id(source.weight) not in trained for source in sources):
        return "its weights are frozen or in no optimiser"
    redrawn = (not_redrawable(source, init) for source, init in zip(sources, inits, strict=True))
    return next((why for why in redrawn if why), "")


def _unseen(module: nn.Module) -> str:
    """Why a module with matrices of its own is in no trace, or an empty string for one without."""
    if isinstance(module, nn.RNNBase):
        return "its gates are computed inside one fused function"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return ""
    matrices = [name for name, p in module.named_parameters(recurse=False) if p.ndim >= 2]
    return f"no linear map or convolution used its {matrices[0]} so far" if matrices else ""


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
        for part, own, dim in incoming_parts(name, graph[name], modules, mask):
            touched += recycle_incoming(modules[part], own, seeds[name], initialiser_of(pl_module, part, init), dim)
        touched += renew_norms(norms, mask, seeds[name])
    for name, mask in units.items():
        consumers = {consumer: modules[consumer] for consumer in graph[name].consumers}
        touched += silence_outgoing(graph[name], consumers, mask)
    broadcast(trainer, {id(p): p for p in (*biases, *(t.parameter for t in touched))}.values())
    if moments == "zero":
        for parameter, entries in touched:
            forget_moments(optimizers_of(trainer), parameter, entries)
