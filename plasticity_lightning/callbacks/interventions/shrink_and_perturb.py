"""Shrink the weights and perturb them, with a full reset of the heads if asked."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from plasticity_lightning.callbacks.interventions.triggered import TriggeredIntervention, broadcast, optimizers_of
from plasticity_lightning.interventions.initialise import Initialiser, initialiser_of, select_layers
from plasticity_lightning.interventions.optimizer_state import Moments, check_moments, forget_moments
from plasticity_lightning.interventions.shrink_and_perturb import mix_in_fresh, shrink_and_add_noise
from plasticity_lightning.runtime.clock import Unit

__all__ = ["ShrinkAndPerturb"]


class ShrinkAndPerturb(TriggeredIntervention):
    """W <- alpha W + (1 - alpha) W_new, or with `noise_std` W <- alpha W + noise; heads are reset.

    Args:
        alpha: share of the old weights that stays, in [0, 1].
        noise_std: standard deviation of the noise of the original form; None mixes in a new initialisation.
        modules: shell patterns over module names of the layers to shrink; those that cannot be drawn anew are named in a
            warning and stay as they are.
        heads: shell patterns over the layers that are reset in full; they may overlap with `modules`.
        moments: `zero` forgets the optimiser's moments of all touched parameters, `keep` leaves them.
        init: function of a module, applied to each new layer; an import path in YAML.
        every: act whenever this many units have passed.
        at: act at these readings.
        trigger: act when a logged measure crosses a threshold.
        unit: update, batch, epoch or frame.
        hysteresis: see `Trigger`.
        refractory: see `Trigger`.
        seed: of the new weights and the noise.
        alpha_by: logged measure m that says how much to perturb: the share that stays is 1 - alpha_rate * m, held within
            [alpha_min, alpha]. With `plasticity/dormant/network` this is DrM's perturbation; without a value, alpha.
        alpha_rate: factor of that measure, at least 0.
        alpha_min: smallest share with `alpha_by`, in [0, alpha].

    Logs:
        `intervention/shrink_and_perturb/parameters` (weights shrunk), `.../reset` (weights reset), `.../alpha`, `.../events`.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, see `Reset`.

    Sources: Ash & Adams 2020; D'Oro et al. 2023; Xu et al. 2024 (DrM: alpha by the share of dormant units).
    """

    name = "shrink_and_perturb"

    def __init__(
        self,
        alpha: float = 0.8,
        noise_std: float | None = None,
        modules: str | list[str] = "*",
        heads: list[str] | None = None,
        moments: Moments = "zero",
        init: Initialiser | None = None,
        every: int | None = None,
        at: Sequence[int] | None = None,
        trigger: str | None = None,
        unit: Unit = "update",
        hysteresis: float = 0.0,
        refractory: int = 0,
        seed: int = 0,
        alpha_by: str | None = None,
        alpha_rate: float = 2.0,
        alpha_min: float = 0.2,
    ) -> None:
        super().__init__(every, at, trigger, unit, hysteresis, refractory, seed)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} must be in [0, 1]: the share of the old weights that stays")
        if noise_std is not None and noise_std < 0:
            raise ValueError(f"noise_std={noise_std} must not be negative")
        if alpha_by is not None and not (alpha_rate >= 0 and 0 <= alpha_min <= alpha):
            raise ValueError(
                f"alpha_rate={alpha_rate} must not be negative, alpha_min={alpha_min} be in [0, alpha={alpha}]"
            )
        check_moments(moments)
        self.alpha_by, self.alpha_rate, self.alpha_min = alpha_by, alpha_rate, alpha_min
        self.alpha, self.noise_std, self.modules, self.heads = alpha, noise_std, modules, heads or []
        self.moments, self.init = moments, init
        self._key |= {"modules": modules, "heads": self.heads}
        self._left_out: dict[str, str] = {}
        self._told = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._layers(pl_module)

    def act(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Shrink and perturb, and reset the heads."""
        body, heads = self._layers(pl_module)
        alpha = self._share_that_stays(trainer)
        changed: list[Tensor] = []
        for name, layer in body.items():
            done = {id(tensor) for tensor in changed}  # a tied tensor is shrunk once
            if self.noise_std is None:
                init = initialiser_of(pl_module, name, self.init)
                changed += mix_in_fresh(layer, self.seed_for(name), alpha, init, done)
            else:
                changed += shrink_and_add_noise(layer, self.seed_for(name), alpha, self.noise_std, done)
        shrunk = sum(tensor.numel() for tensor in changed if isinstance(tensor, nn.Parameter))
        for name, layer in heads.items():
            changed += mix_in_fresh(layer, self.seed_for(name), 0.0, initialiser_of(pl_module, name, self.init))
        broadcast(trainer, changed)
        parameters = [tensor for tensor in changed if isinstance(tensor, nn.Parameter)]
        if self.moments == "zero":
            for parameter in parameters:
                forget_moments(optimizers_of(trainer), parameter)
        return {"parameters": shrunk, "reset": sum(p.numel() for p in parameters) - shrunk, "alpha": alpha}

    def _share_that_stays(self, trainer: Trainer) -> float:
        if self.alpha_by is None or self.alpha_by not in trainer.callback_metrics:
            return self.alpha
        measure = trainer.strategy.broadcast(float(trainer.callback_metrics[self.alpha_by]))
        return min(max(1 - self.alpha_rate * measure, self.alpha_min), self.alpha)

    def covers(self, trainer: Trainer, pl_module: LightningModule) -> list[tuple[str, str, str]]:
        """The layers that are shrunk, those that are reset, and what cannot be drawn anew."""
        body, heads = self._layers(pl_module)
        return [
            *((name, "shrunk", "") for name in body),
            *((name, "drawn anew", "") for name in heads),
            *((name, "left out", why) for name, why in self._left_out.items()),
        ]

    def _layers(self, pl_module: LightningModule) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        try:
            heads = select_layers(pl_module, self.heads, self.init) if self.heads else {}
            self._left_out.clear()
            body = select_layers(pl_module, self.modules, self.init, left_out=self._left_out)
        except ValueError as error:
            raise MisconfigurationException(f"{type(self).__name__}: {error}") from error
        if self._left_out and not self._told:
            self._told = True
            listed = "; ".join(f"{name} ({why})" for name, why in self._left_out.items())
            rank_zero_warn(f"ShrinkAndPerturb leaves what cannot be drawn anew as it is: {listed}")
        return {name: layer for name, layer in body.items() if name not in heads}, heads
