"""Inject plasticity into heads: freeze them and learn a difference with new weights, without changing the output."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from plasticity_lightning.callbacks.interventions.triggered import TriggeredIntervention, broadcast
from plasticity_lightning.interventions.initialise import Initialiser, fresh_layer
from plasticity_lightning.interventions.plasticity_injection import InjectableHead
from plasticity_lightning.runtime.averaged_copies import copy_again
from plasticity_lightning.runtime.clock import Unit
from plasticity_lightning.runtime.lightning_classes import is_lightning

__all__ = ["PlasticityInjection"]


class PlasticityInjection(TriggeredIntervention):
    """Once: the named modules are frozen and get a learner and its frozen twin, so that the output stays as it is.

    The place for them is made at `setup`, before optimisers are configured and weights are loaded: the new parameters
    belong to whatever optimiser takes the module's parameters, without gradient (and so without effect) until then, and
    a checkpoint loads before and after. `head` becomes `head.original`, `head.learner` and `head.reference`. Under sparse
    training the learner is masked from the start like any layer that no batch uses, and its twin is equal to it.

    Args:
        modules: names of the modules, each from tensors to one tensor. A target network that is averaged parameter by
            parameter with one of them must be named too; all get the same new weights.
        init: function of a module, applied to the new head as by `module.apply`; an import path in YAML.
        at: the reading at which to inject.
        trigger: inject when a logged measure crosses a threshold, the first time.
        unit: update, batch, epoch or frame.
        seed: of the new weights.

    Logs:
        `intervention/plasticity_injection/heads`, `.../parameters` (new trainable ones), `.../events`.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, if a name is no module, the head cannot be re-initialised, or DDP is not
            told to look for unused parameters.

    Source: Nikishin et al. 2023.
    """

    name = "plasticity_injection"

    def __init__(
        self,
        modules: list[str],
        init: Initialiser | None = None,
        at: int | None = None,
        trigger: str | None = None,
        unit: Unit = "update",
        seed: int = 0,
    ) -> None:
        if not modules:
            raise ValueError("modules=[] must name at least one module")
        readings: Sequence[int] | None = None if at is None else [at]
        super().__init__(None, readings, trigger, unit, seed=seed)
        self.modules, self.init = list(modules), init
        self._key |= {"modules": self.modules}
        self._new: list[InjectableHead] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make a place for the new heads."""
        super().setup(trainer, pl_module, stage)
        names = dict(pl_module.named_modules())
        for name in self.modules:
            if not name or name not in names:
                raise MisconfigurationException(
                    f"PlasticityInjection: {name!r} is no module; there are {[n for n in names if n]}"
                )
            if isinstance(names[name], InjectableHead):  # a second stage, such as test after fit
                continue
            try:
                fresh_layer(names[name], self.seed, self.init)
            except ValueError as error:
                raise MisconfigurationException(f"PlasticityInjection: {name}: {error}") from error
            parent, _, child = name.rpartition(".")
            setattr(names[parent], child, InjectableHead(names[name]))
        if stage == "fit":
            copy_again(trainer, pl_module)
        if is_lightning(trainer.strategy, "DDPStrategy") and not trainer.strategy._ddp_kwargs.get(
            "find_unused_parameters"
        ):
            raise MisconfigurationException(
                "PlasticityInjection leaves parameters unused before the injection: use "
                "strategy=ddp_find_unused_parameters_true"
            )

    def act(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Inject, if it has not been done."""
        heads = [head for head in self._heads(pl_module) if not head.injected]
        changed: list[Tensor] = []
        for head in heads:
            changed += head.inject(self.seed_for("heads"), self.init)
        broadcast(trainer, changed)
        self._new = heads
        new = sum(p.numel() for head in heads for p in head.learner.parameters() if p.requires_grad)
        return {"heads": len(heads), "parameters": new}

    def covers(self, trainer: Trainer, pl_module: LightningModule) -> list[tuple[str, str, str]]:
        """The heads."""
        return [(name, "gets a new head", "") for name in self.modules]

    def _act_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super()._act_if_due(trainer, pl_module)
        # the gate is closed: masks have had their word on the learners, and a twin must repeat it for the same output
        for head in self._new:
            head.reference.load_state_dict(head.learner.state_dict())
        self._new = []

    def _heads(self, pl_module: LightningModule) -> list[InjectableHead]:
        found: list[nn.Module] = [pl_module.get_submodule(name) for name in self.modules]
        return [head for head in found if isinstance(head, InjectableHead)]
