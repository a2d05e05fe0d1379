"""Are single neurons mixed, and do the readouts share them? Measured once, with the last trial, from the probes.

Works on any module that offers `protocols.HasPrediction` and on batches with `probe` and `cue` [l]. Probes show the
cue alone, so what differs between cues is not the outcome. States are averaged over bins before they are kept.
"""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.measures.selectivity import mixed_selectivity, mixing_index, variance_shares
from plasticity_lightning.protocols import CoverageRow, HasPrediction
from plasticity_lightning.runtime.coverage import announce_coverage

__all__ = ["SelectivityMonitor"]


class SelectivityMonitor(Callback):
    """Logs how many neurons are selective for time x cue and how evenly the readouts use them.

    Args:
        bin_samples: samples averaged to one, at least 1; 10 samples of 5 ms are 50 ms.
        permutations: of the cue labels, at least 20.
        seed: of the permutations.

    State: the binned states of the probes [n, L, T, N] and their cues.

    Logs (means over lanes, with the last trial):
        `selectivity/mixed_fraction` (above 99 % of permutations; chance is 0.01), `selectivity/time_share`,
        `selectivity/cue_share`,
        `selectivity/interaction_share` of the variance, and, of a module with at least 2 outcomes,
        `selectivity/mixing_index` of |w_when| and |w_A - w_B| with its null from shuffled neurons,
        `selectivity/mixing_index_null`.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, if the module offers no prediction, or there are several processes.
    """

    def __init__(self, bin_samples: int = 10, permutations: int = 100, seed: int = 0) -> None:
        for name, value, least in (
            ("bin_samples", bin_samples, 1),
            ("permutations", permutations, 20),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        self.bin_samples, self.permutations, self.seed = bin_samples, permutations, seed
        self.rates: list[Tensor] = []
        self.cues: list[Tensor] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be measured."""
        if not isinstance(pl_module, HasPrediction):
            raise MisconfigurationException(f"{type(pl_module).__name__} offers no `protocols.HasPrediction`")
        if trainer.world_size > 1:
            raise MisconfigurationException(
                "SelectivityMonitor runs in one process: each of several has the states of its lanes only"
            )
        if stage == "fit":
            announce_coverage(trainer)

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """The neurons' states in probes, and the readouts where there are two outcomes to compare."""
        rows = [CoverageRow("SelectivityMonitor", "last_input", "watched", "probes only, measured with the last trial")]
        several = cast(HasPrediction, pl_module).n_outcomes > 1
        reason = "mixing of time and outcomes" if several else "one outcome only: no contrast to compare time with"
        return [
            *rows,
            CoverageRow("SelectivityMonitor", "readout_weight", "watched" if several else "left out", reason),
        ]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a probe; measure with the last trial."""
        module = cast(HasPrediction, pl_module)
        if module.last_input is not None and bool(batch["probe"].all()):
            x = module.last_input.detach().cpu().float()
            whole = x.shape[1] // self.bin_samples * self.bin_samples
            self.rates.append(x[:, :whole].unflatten(1, (-1, self.bin_samples)).mean(2))
            self.cues.append(batch["cue"].cpu())
        if trainer.is_last_batch:
            for name, value in self.measure(module).items():
                pl_module.log(f"selectivity/{name}", value.float(), on_step=False, on_epoch=True, batch_size=1)

    def measure(self, module: HasPrediction) -> dict[str, Tensor]:
        """Means over lanes of what the probes so far show; nothing without probes of two cues."""
        if not self.rates or len(torch.stack(self.cues).unique()) < 2:
            return {}
        rates, cues = torch.stack(self.rates, 1), torch.stack(self.cues, 1)
        generator = torch.Generator().manual_seed(self.seed)
        found: dict[str, list[Tensor]] = {}
        for lane in range(len(rates)):
            shares = variance_shares(rates[lane], cues[lane])
            mixed = mixed_selectivity(rates[lane], cues[lane], generator, self.permutations)
            values = {"mixed_fraction": mixed.double().mean()}
            for name in ("time", "cue", "interaction"):
                values[f"{name}_share"] = getattr(shares, name).nanmean()
            if module.n_outcomes > 1:
                weight = module.readout_weight[lane].detach().cpu()
                when, contrast = weight[0], weight[1] - weight[2]
                values["mixing_index"] = mixing_index(when, contrast).nanmean()
                shuffled = contrast[torch.randperm(len(contrast), generator=generator)]
                values["mixing_index_null"] = mixing_index(when, shuffled).nanmean()
            for name, value in values.items():
                found.setdefault(name, []).append(value.double())
        return {name: torch.stack(values).nanmean() for name, values in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The probes so far."""
        return {"rates": self.rates, "cues": self.cues}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up again."""
        self.rates, self.cues = list(state_dict["rates"]), list(state_dict["cues"])
