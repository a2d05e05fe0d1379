"""What pulls weights back to where they started: W_0 is kept beside them, in the checkpoint too."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from plasticity_lightning.callbacks.interventions.triggered import refuse_sharded, trained_parameters
from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.updates import begins_anew

__all__ = ["Anchored"]


class Anchored(Callback):
    """Keeps W_0 of the chosen parameters, as they are when training starts for the first time.

    Args:
        parameters: shell patterns over parameter names.

    Raises:
        MisconfigurationException: if the patterns match no trainable parameter, or another set of weights than that in
            the checkpoint.
    """

    def __init__(self, parameters: str | list[str] = "*") -> None:
        self.patterns = [parameters] if isinstance(parameters, str) else list(parameters)
        self.anchors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    @property
    def state_key(self) -> str:
        """One key per choice of parameters."""
        return self._generate_state_key(parameters=self.patterns)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that split parameters, and patterns without a match."""
        refuse_sharded(trainer, type(self).__name__)
        if stage == "fit":
            announce_coverage(trainer)
        names = [name for name, p in pl_module.named_parameters() if p.requires_grad]
        if stage == "fit" and not any(fnmatchcase(name, pattern) for name in names for pattern in self.patterns):
            raise MisconfigurationException(
                f"{type(self).__name__}: parameters={self.patterns} matches no trainable parameter; there are {names}"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember W_0, unless a checkpoint has brought it."""
        chosen = {
            name: p
            for name, p in trained_parameters(trainer, pl_module).items()
            if any(fnmatchcase(name, pattern) for pattern in self.patterns)
        }
        if begins_anew(trainer) or not self.anchors:
            self.anchors = {name: p.detach().clone() for name, p in chosen.items()}
        shapes = {name: tuple(a.shape) for name, a in self.anchors.items()}
        if shapes != {name: tuple(p.shape) for name, p in chosen.items()}:
            raise MisconfigurationException(
                f"{type(self).__name__}: the checkpoint holds initial weights of {sorted(shapes)}, "
                f"the module has {sorted(chosen)}"
            )
        self.anchors = {name: self.anchors[name].to(p.device) for name, p in chosen.items()}
        self._names = {id(p): name for name, p in chosen.items()}

    def coverage(self, trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
        """See `protocols.HasCoverage`."""
        owner, trained = type(self).__name__, trained_parameters(trainer, pl_module)
        rows = [CoverageRow(owner, name, "pulled back", "") for name in self.anchors]
        chosen = (n for n, _ in pl_module.named_parameters() if any(fnmatchcase(n, p) for p in self.patterns))
        return rows + [
            CoverageRow(owner, n, "left out", "frozen or in no optimiser") for n in chosen if n not in trained
        ]

    def pairs(self, parameters: list[nn.Parameter]) -> tuple[list[Tensor], list[Tensor]]:
        """Those of `parameters` that were chosen, and their W_0."""
        ours = [p for p in parameters if id(p) in self._names]
        return list(ours), [self.anchors[self._names[id(p)]] for p in ours]

    def state_dict(self) -> dict[str, Any]:
        """W_0."""
        return {"anchors": dict(self.anchors)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take W_0 from the checkpoint."""
        self.anchors = dict(state_dict["anchors"])
