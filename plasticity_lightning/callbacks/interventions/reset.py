"""Reset chosen layers to new random weights, with what the optimiser remembers of them."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from plasticity_lightning.callbacks.interventions.triggered import TriggeredIntervention, broadcast, optimizers_of
from plasticity_lightning.interventions.initialise import Initialiser, initialiser_of, select_layers
from plasticity_lightning.interventions.optimizer_state import Moments, check_moments, forget_moments
from plasticity_lightning.interventions.shrink_and_perturb import mix_in_fresh
from plasticity_lightning.runtime.clock import Unit

__all__ = ["Reset"]


class Reset(TriggeredIntervention):
    """Re-initialises layers by their own `reset_parameters` (and `init`), on a schedule or when a measure says so.

    Args:
        modules: shell patterns over module names; `"*"` resets the whole network.
        last: of the chosen layers only the last n that have a matrix, in the order in which they are defined, with the
            norms that are defined behind the first of them.
        moments: `zero` forgets the optimiser's moments and step counts of the reset parameters, `keep` leaves them.
        init: function of a module, applied to each new layer as by `module.apply`; an import path in YAML.
        every: act whenever this many units have passed.
        at: act at these readings.
        trigger: act when a logged measure crosses a threshold.
        unit: update, batch, epoch or frame.
        hysteresis: see `Trigger`.
        refractory: see `Trigger`.
        seed: of the new weights.

    Logs:
        `intervention/reset/parameters`, the number of weights reset, and `intervention/reset/events`.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, if a pattern matches nothing, a layer cannot be re-initialised, or a
            parameter is shared with a layer that is not chosen.

    Source: Nikishin et al. 2022 (the last layers, every 2e5 updates in RL).
    """

    name = "reset"

    def __init__(
        self,
        modules: str | list[str] = "*",
        last: int | None = None,
        moments: Moments = "zero",
        init: Initialiser | None = None,
        every: int | None = None,
        at: Sequence[int] | None = None,
        trigger: str | None = None,
        unit: Unit = "update",
        hysteresis: float = 0.0,
        refractory: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(every, at, trigger, unit, hysteresis, refractory, seed)
        if last is not None and last < 1:
            raise ValueError(f"last={last} must be at least 1, or None for all chosen layers")
        check_moments(moments)
        self.modules, self.last, self.moments, self.init = modules, last, moments, init
        self._key |= {"modules": modules, "last": last}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._layers(pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Reset the layers."""
        changed: list[Tensor] = []
        for name, layer in self._layers(pl_module).items():
            changed += mix_in_fresh(layer, self.seed_for(name), 0.0, initialiser_of(pl_module, name, self.init))
        broadcast(trainer, changed)
        parameters = [tensor for tensor in changed if isinstance(tensor, nn.Parameter)]
        if self.moments == "zero":
            for parameter in parameters:
                forget_moments(optimizers_of(trainer), parameter)
        return {"parameters": sum(p.numel() for p in parameters)}

    def covers(self, trainer: Trainer, pl_module: LightningModule) -> list[tuple[str, str, str]]:
        """The layers that will be drawn anew."""
        return [(name, "drawn anew", "") for name in self._layers(pl_module)]

    def _layers(self, pl_module: LightningModule) -> dict[str, nn.Module]:
        try:
            return select_layers(pl_module, self.modules, self.init, self.last)
        except ValueError as error:
            raise MisconfigurationException(f"{type(self).__name__}: {error}") from error
