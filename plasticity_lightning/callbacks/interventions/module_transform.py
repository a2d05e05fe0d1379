"""Change a module's architecture before training: CReLU, layer normalisation or spectral normalisation of chosen layers."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from plasticity_lightning.interventions.module_transform import CReLU, LayerNormed, insert_crelu
from plasticity_lightning.measures.isolation import undisturbed
from plasticity_lightning.protocols import CoverageRow
from plasticity_lightning.runtime.averaged_copies import copy_again
from plasticity_lightning.runtime.coverage import announce_coverage

__all__ = ["ModuleTransform"]

Kind = Literal["crelu", "layer_norm", "spectral_norm"]


class ModuleTransform(Callback):
    """Transforms layers at `setup`, before optimisers see the parameters and before a checkpoint is loaded.

    Args:
        kind: `crelu`: each chosen ReLU in a `nn.Sequential` becomes [ReLU(x), ReLU(-x)], and the layers before it get
            half the width, with new weights. `layer_norm`: each chosen Linear layer or convolution is followed by a
            normalisation of its output (its parameters are then called `<layer>.0.weight`). `spectral_norm`: the weight
            of each chosen layer is divided by its largest singular value (torch's parametrisation).
        modules: shell patterns over the names of the ReLUs or layers. Leave the output layer out.
        seed: of new weights and of the start of power iterations.

    Raises:
        ValueError: for another kind or a negative seed.
        MisconfigurationException: at setup, if a pattern matches no layer of the kind, or a layer cannot be changed.

    Sources: Abbas et al. 2023 (CReLU), Lyle et al. 2023 (layer normalisation), Miyato et al. 2018 (spectral
    normalisation).
    """

    def __init__(self, kind: Kind, modules: str | list[str], seed: int = 0) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind={kind!r} must be one of {', '.join(get_args(Kind))}")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        self.kind: Kind = kind
        self.patterns = [modules] if isinstance(modules, str) else list(modules)
        self.seed = seed
        self._transformed: dict[str, None] = {}  # in order, each once

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Transform what has not been transformed in an earlier stage."""
        if stage == "fit":
            announce_coverage(trainer)
        for pattern in self.patterns:
            names = [name for name, module in pl_module.named_modules() if self._applies(module)]
            chosen = [name for name in names if fnmatchcase(name, pattern)]
            if not chosen:
                raise MisconfigurationException(
                    f"ModuleTransform: modules={pattern!r} matches nothing to which {self.kind} applies; there are {names}"
                )
            for name in chosen:
                self._transform(pl_module, name)
                self._transformed.setdefault(name)
        if stage == "fit":
            copy_again(trainer, pl_module)

    def coverage(self, trainer: Trainer, pl_module: LightningModule) -> list[CoverageRow]:
        """See `protocols.HasCoverage`."""
        return [CoverageRow("ModuleTransform", name, self.kind, "") for name in self._transformed]

    def _applies(self, module: nn.Module) -> bool:
        if self.kind == "crelu":
            return isinstance(module, nn.ReLU | CReLU)
        return isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | LayerNormed)

    def _transform(self, pl_module: LightningModule, name: str) -> None:
        parent_name, _, child = name.rpartition(".")
        parent, module = pl_module.get_submodule(parent_name), pl_module.get_submodule(name)
        done = isinstance(module, CReLU | LayerNormed) or isinstance(parent, LayerNormed)
        done = done or parametrize.is_parametrized(module)
        if done:
            return
        try:
            with undisturbed(self.seed):
                if self.kind == "crelu":
                    if not isinstance(parent, nn.Sequential):
                        raise ValueError("the ReLU must stand in a nn.Sequential, behind the layer that it follows")
                    insert_crelu(parent, int(list(parent._modules).index(child)))
                elif self.kind == "layer_norm":
                    setattr(parent, child, LayerNormed(module))
                else:
                    parametrizations.spectral_norm(module)
        except ValueError as error:
            raise MisconfigurationException(f"ModuleTransform: {self.kind} of {name!r}: {error}") from error
