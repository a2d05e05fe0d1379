"""An astrocyte as a Callback: it senses liquid and input spikes and sets the depression rate of a plastic spiking module.

A module with a `modulator` slot (see `protocols.HasModulator`) receives the astrocyte's parameters and runs it inside its own simulation, at every
1 ms step. Any other module can be coupled by names: spikes are counted by forward hooks, and after each batch the state A is advanced and
written to `target`. Source: Ivanov & Michmizos 2021.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plasticity_lightning.protocols import CoverageRow, HasModulator
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.updates import begins_anew
from plasticity_lightning.runtime.weight_gate import changing_weights
from plasticity_lightning.spiking.astrocyte import Astrocyte, astrocyte_step

__all__ = ["AstrocyteFeedback"]


class AstrocyteFeedback(Callback):
    """Astrocyte that modulates the depression rate A of a spiking module's STDP.

    Args:
        weight: coupling to each spike, at least 0 (0.015 for 1000 neurons, 0.0075 for 8000).
        bias: A at rest, at least 0.
        tau: time constant in ms, at least 1.
        density: fraction of neurons and of inputs sensed, in (0, 1].
        seed: of the random choice of sensed neurons.
        target: dotted path, from the LightningModule, of the number to set, e.g. `learner.lr_minus`. None looks for a `modulator` slot.
        liquid: with `target`: glob pattern of the modules whose outputs are the liquid's spikes; of nested ones the outermost.
        inputs: with `target`: glob pattern of the modules whose outputs are the input's spikes.
        time_first: with `target`: the outputs are [T, B, ...]; False: each call is one step [B, ...]. None goes by the step mode of the
            module or of the nodes in it (SpikingJelly: m or s), without one each call is a step. Of several outputs (snnTorch's spikes and
            membrane potentials) the first tensor counts.

    Logs:
        `astrocyte/depression_rate`, the mean of A over the batch.

    Raises:
        ValueError: if a parameter is outside its range or only some of target, liquid and inputs are given.
        MisconfigurationException: at setup, if the module has no `modulator` slot, a name matches nothing, or `time_first` contradicts
            the step mode of a module that it is for.
    """

    def __init__(
        self,
        weight: float = Astrocyte.weight,
        bias: float = Astrocyte.bias,
        tau: float = Astrocyte.tau,
        density: float = Astrocyte.density,
        seed: int = Astrocyte.seed,
        target: str | None = None,
        liquid: str | None = None,
        inputs: str | None = None,
        time_first: bool | None = None,
    ) -> None:
        given = [value is not None for value in (target, liquid, inputs)]
        if any(given) and not all(given):
            raise ValueError(
                f"target={target!r}, liquid={liquid!r} and inputs={inputs!r} must be given together, or none of them"
            )
        if target is not None and density < 1:
            raise ValueError(
                f"density={density}: a partly sensing astrocyte needs a module with a `modulator` slot, not `target`"
            )
        self.astrocyte = Astrocyte(weight, bias, tau, density, seed)
        self.target, self.liquid, self.inputs, self.time_first = target, liquid, inputs, time_first
        self.state = self._at_rest()
        self._restored = False
        self._sensed: dict[str, dict[str, bool]] = {
            "liquid": {},
            "inputs": {},
        }  # kind -> module -> whether its outputs are time first
        self._counts: dict[str, dict[str, list[Tensor]]] = {"liquid": {}, "inputs": {}}
        self._handles: list[RemovableHandle] = []

    @property
    def state_key(self) -> str:
        """One key per target, so that two astrocytes can serve one module."""
        return self._generate_state_key(target=self.target)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Couple the astrocyte to the module, at every stage: a plastic liquid is modulated while it is tested, too."""
        if stage == "fit":
            announce_coverage(trainer)
        if self.target is None:
            if not isinstance(pl_module, HasModulator):
                raise MisconfigurationException(
                    f"{type(pl_module).__name__} has no `modulator` slot for AstrocyteFeedback. Add the attributes `modulator = None` and "
                    "`modulation = None` and let its plastic synapses consult them, or give target=, liquid= and inputs= by name."
                )
            pl_module.modulator = self.astrocyte
            return
        owner, name = _resolve(pl_module, self.target)
        if not isinstance(getattr(owner, name), int | float | Tensor):
            raise MisconfigurationException(
                f"target={self.target!r} must be a number or tensor, got {getattr(owner, name)!r}"
            )
        self._remove_hooks()
        for kind, pattern in (("liquid", self.liquid), ("inputs", self.inputs)):
            found = {n: m for n, m in pl_module.named_modules() if n and fnmatchcase(n, str(pattern))}
            if not found:
                names = [n for n, _ in pl_module.named_modules() if n][:20]
                raise MisconfigurationException(f"{kind}={pattern!r} matches no module; the modules are {names}")
            # of modules that contain each other the outermost counts: its outputs are the inner one's spikes again
            found = {n: m for n, m in found.items() if not any(n.startswith(f"{outer}.") for outer in found)}
            self._sensed[kind] = {n: self._time_first(n, m) for n, m in found.items()}
            self._handles += [m.register_forward_hook(self._counter(kind, n)) for n, m in found.items()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the state to the module: the restored one, or in a fit that begins anew A at rest."""
        if begins_anew(trainer) and not self._restored:
            self.state = self._at_rest()
        self._restored = False
        self._write_target(pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Forget spikes of validation or of forward passes outside training."""
        self._counts = {"liquid": {}, "inputs": {}}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance A over the batch's steps where the module does not do so itself, and log it."""
        if self.target is not None:
            self._advance(trainer)
            self._write_target(pl_module)
        if logging_due(trainer):
            rate = self.state if self.target is not None else getattr(pl_module, "modulation", None)
            if rate is not None and rate.numel():
                pl_module.log("astrocyte/depression_rate", rate.double().mean().float(), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """A, where the callback carries it."""
        return {"state": self.state.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore A."""
        self.state, self._restored = state_dict["state"].clone(), True

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """What it senses and what it sets."""
        if self.target is None:
            how = f"at every step of the module's own simulation, density {self.astrocyte.density:g}"
            return [CoverageRow("AstrocyteFeedback", "modulator", "modulated", how)]
        rows = [
            CoverageRow("AstrocyteFeedback", name, f"sensed: {kind}", "time first" if time_first else "a step a call")
            for kind, modules in self._sensed.items()
            for name, time_first in modules.items()
        ]
        return [*rows, CoverageRow("AstrocyteFeedback", self.target, "set", "after each batch")]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks: Lightning calls no teardown after an exception."""
        self._remove_hooks()

    def _at_rest(self) -> Tensor:
        return torch.tensor(float(self.astrocyte.bias), dtype=torch.float64)

    def _time_first(self, name: str, module: nn.Module) -> bool:
        modes = {getattr(part, "step_mode", None) for part in module.modules()} - {None}
        if self.time_first is None:
            return "m" in modes
        if modes and self.time_first != ("m" in modes):
            raise MisconfigurationException(
                f"time_first={self.time_first} contradicts {name!r}, whose step mode is {', '.join(sorted(map(str, modes)))}; leave it out"
            )
        return self.time_first

    def _counter(self, kind: str, name: str) -> Any:
        time_first = self._sensed[kind][name]

        def count(module: nn.Module, args: Any, output: Any) -> None:
            with torch.no_grad():
                spikes = _first_tensor(output)
                if spikes is None or spikes.ndim < 1 + time_first or not spikes.numel():
                    raise MisconfigurationException(
                        f"{kind}: {name!r} returns {type(output).__name__ if spikes is None else tuple(spikes.shape)}; AstrocyteFeedback "
                        f"needs spikes {'[T, B, ...]' if time_first else '[B, ...]'} as its first tensor"
                    )
                spikes = spikes.detach() if time_first else spikes.detach()[None]
                # spikes per step and sample: mean over the batch, sum over neurons
                per_sample = spikes.reshape(*spikes.shape[:2], -1).sum(2)
                self._counts[kind].setdefault(name, []).append(per_sample.double().mean(1))

        return count

    def _advance(self, trainer: pl.Trainer) -> None:
        per_module = [torch.cat(steps) for kind in ("liquid", "inputs") for steps in self._counts[kind].values()]
        if not self._counts["liquid"] or not self._counts["inputs"]:
            return
        if len({len(steps) for steps in per_module}) > 1:
            raise MisconfigurationException(
                f"the sensed modules ran for {[len(steps) for steps in per_module]} steps: AstrocyteFeedback needs all of them at every step"
            )
        n = len(self._counts["liquid"])
        both = torch.stack([torch.stack(per_module[:n]).sum(0), torch.stack(per_module[n:]).sum(0)])
        both = trainer.strategy.reduce(both, reduce_op="mean").cpu()
        a = self.astrocyte
        for n_liquid, n_input in both.T:
            self.state = astrocyte_step(self.state, n_liquid, n_input, a.weight, a.bias, a.tau)

    def _write_target(self, pl_module: pl.LightningModule) -> None:
        if self.target is None:
            return
        owner, name = _resolve(pl_module, self.target)
        current = getattr(owner, name)
        if isinstance(current, Tensor):
            with changing_weights(pl_module, [current]):
                current.data.fill_(float(self.state))
        else:
            setattr(owner, name, float(self.state))

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    parts = output if isinstance(output, tuple | list) else ()
    return next((t for part in parts if (t := _first_tensor(part)) is not None), None)


def _resolve(root: nn.Module, path: str) -> tuple[Any, str]:
    *parents, name = path.split(".")
    owner: Any = root
    for parent in parents:
        if not hasattr(owner, parent):
            raise MisconfigurationException(f"target={path!r}: {type(owner).__name__} has no attribute {parent!r}")
        owner = getattr(owner, parent)
    if not hasattr(owner, name):
        raise MisconfigurationException(f"target={path!r}: {type(owner).__name__} has no attribute {name!r}")
    return owner, name
