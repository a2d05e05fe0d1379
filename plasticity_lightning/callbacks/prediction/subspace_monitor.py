"""How the weights of time and of identity lie to each other over trials.

Principal angles, among weights and among signals, beside what chance gives.

Time is the bank of latency readouts (rows behind the outcomes of `readout_weight`), identity the contrast of the
first two outcomes. Works on any module that offers
`protocols.HasPrediction` with such a bank. The covariance of the states grows with the trials and is state of this
callback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from plasticity_lightning.measures.subspaces import null_angles, principal_angles, random_directions
from plasticity_lightning.protocols import CoverageRow, HasPrediction
from plasticity_lightning.readouts.consolidation import consolidate
from plasticity_lightning.runtime.coverage import announce_coverage
from plasticity_lightning.runtime.exact_loops import left

__all__ = ["NULLS", "SubspaceMonitor", "subspace_angles"]

NULLS = ("isotropic", "covariance", "states", "shuffled")
_KEPT_STATES = 200


class SubspaceMonitor(Callback):
    """Measures the smallest angle between the subspaces of time and identity every so many trials.

    Args:
        every: trials between two measurements, at least 1.
        draws: random directions of each null, at least 20.
        eta: rate at which identities are learned again from tags with shuffled outcomes, for the null "shuffled", in
            (0, 2).
        seed: of the nulls.

    State: covariance [L, N, N], a reservoir sample of states, and what was measured.

    Logs:
        `subspaces/weights`, `subspaces/signals`: angles in degrees, means over lanes, and
        `subspaces/<space>_null_<kind>`, medians of the nulls; when training ends the figure `prediction/subspaces`.

    Raises:
        ValueError: if an argument is out of range.
        MisconfigurationException: at setup, if the module has no bank of latencies or fewer than two outcomes.
    """

    def __init__(self, every: int = 28, draws: int = 200, eta: float = 0.2, seed: int = 0) -> None:
        for name, value, least in (("every", every, 1), ("draws", draws, 20), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if not 0 < eta < 2:
            raise ValueError(f"eta={eta} must lie in (0, 2)")
        self.every, self.draws, self.eta, self.seed = every, draws, eta, seed
        self.covariance: Tensor | None = None
        self.states: Tensor | None = None
        self.samples = 0
        self.history: list[dict[str, Tensor]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a module without both subspaces; several processes each hold only some lanes' states."""
        if not isinstance(pl_module, HasPrediction):
            raise MisconfigurationException(f"{type(pl_module).__name__} offers no `protocols.HasPrediction`")
        rows = pl_module.readout_weight.shape[1]
        if pl_module.n_outcomes < 2 or rows < 2 + pl_module.n_outcomes:
            raise MisconfigurationException(
                f"SubspaceMonitor needs at least 2 outcomes and a bank of latencies; the module has {pl_module.n_outcomes} outcomes and "
                f"{rows - 1 - pl_module.n_outcomes} latencies: set rule_arguments.bank_ms"
            )
        if trainer.world_size > 1:
            raise MisconfigurationException(
                "SubspaceMonitor runs in one process: each of several has the states of its lanes only"
            )
        if stage == "fit":
            announce_coverage(trainer)

    def coverage(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[CoverageRow]:
        """Readouts and states."""
        how = f"every {self.every} trials"
        return [CoverageRow("SubspaceMonitor", name, "watched", how) for name in ("readout_weight", "last_input")]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the trial's states; measure when it is time."""
        module = cast(HasPrediction, pl_module)
        if module.last_input is None:
            return
        self._take_in(module.last_input)
        trial = trainer.fit_loop.total_batch_idx + 1
        if trial % self.every or batch.get("lead_in", False):
            return
        measured = self._measure(module, trial)
        if measured is None:
            return
        self.history.append(measured)
        for space in ("weights", "signals"):
            pl_module.log(f"subspaces/{space}", measured[space].nanmean().float(), batch_size=1)
            for row, kind in enumerate(NULLS):
                pl_module.log(
                    f"subspaces/{space}_null_{kind}",
                    measured[f"{space}_null"][:, row, 1].nanmean().float(),
                    batch_size=1,
                )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the angles over trials, of lane 0, with the null of the states' covariance."""
        if not self.history or left(trainer):  # left for a while: the figure comes at the end
            return
        from plasticity_lightning import viz  # matplotlib is slow to import

        trials = torch.stack([m["trial"] for m in self.history])
        row = NULLS.index("covariance")
        panels = {}
        for space in ("weights", "signals"):
            angle = torch.stack([m[space][0] for m in self.history])
            null = torch.stack([m[f"{space}_null"][0, row] for m in self.history])
            panels[f"among {space}"] = (angle, null[:, 0], null[:, 2])
        figure = viz.subspace_angles(trials, panels)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("prediction/subspaces", figure, trainer.fit_loop.total_batch_idx)
                folder = Path(logger.log_dir) / "figures"
                folder.mkdir(parents=True, exist_ok=True)
                figure.savefig(folder / "subspaces.png")

    def state_dict(self) -> dict[str, Any]:
        """Covariance, states and history."""
        return {"covariance": self.covariance, "states": self.states, "samples": self.samples, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up again."""
        self.covariance, self.states = state_dict["covariance"], state_dict["states"]
        self.samples, self.history = state_dict["samples"], list(state_dict["history"])

    def _take_in(self, x: Tensor) -> None:
        x = x.detach().cpu().float()
        lanes, steps, n = x.shape
        if self.covariance is None or self.states is None:
            self.covariance, self.states = torch.zeros(lanes, n, n), torch.zeros(lanes, 0, n)
        total = self.samples + steps
        # second moment: homeostasis has made the means small, and what a readout gives is w . x, not its deviation
        self.covariance += (x.transpose(1, 2) @ x - steps * self.covariance) / total
        self.samples = total
        generator = torch.Generator().manual_seed(self.seed + self.samples)
        picked = torch.randint(steps, (1,), generator=generator)
        self.states = torch.cat([self.states, x[:, picked]], 1)
        if (
            self.states.shape[1] > _KEPT_STATES
        ):  # any one goes: all that were visited stay equally likely to be kept, up to their age
            keep = torch.randperm(_KEPT_STATES + 1, generator=generator)[:_KEPT_STATES].sort().values
            self.states = self.states[:, keep]

    def _measure(self, module: HasPrediction, trial: int) -> dict[str, Tensor] | None:
        assert self.covariance is not None
        assert self.states is not None
        tags = module.remembered_tags()
        rows: dict[str, list[Tensor]] = {"weights": [], "signals": [], "weights_null": [], "signals_null": []}
        for lane in range(len(module.readout_weight)):
            weight = module.readout_weight[lane].detach().cpu().double()
            bank, contrast = weight[1 + module.n_outcomes :], (weight[1] - weight[2])[None]
            generator = torch.Generator().manual_seed(self.seed + 1000 * trial + lane)
            shuffled = None
            if tags is not None:
                tag, outcome, filled = (t[lane].cpu() for t in tags)
                shuffled = self._shuffled(tag, outcome, int(filled), generator)
            angles, nulls = subspace_angles(
                bank, contrast, self.covariance[lane], self.states[lane], shuffled, generator, self.draws
            )
            for space in ("weights", "signals"):
                rows[space].append(angles[space])
                rows[f"{space}_null"].append(nulls[space])
        return {name: torch.stack(values) for name, values in rows.items()} | {"trial": torch.tensor(trial)}

    def _shuffled(self, tag: Tensor, outcome: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Contrasts [draws, N] learned again from the remembered tags, oldest first, with outcomes shuffled."""
        tag, outcome = tag[:n].flip(0).double(), outcome[:n].flip(0).double()
        weight = torch.zeros(self.draws, outcome.shape[1], tag.shape[1], dtype=torch.float64)
        orders = (
            torch.stack([torch.randperm(n, generator=generator) for _ in range(self.draws)]) if n else torch.zeros(0, 0)
        )
        for i in range(n):
            given = outcome[orders[:, i]]
            weight, _ = consolidate(weight, tag[i].expand(self.draws, -1), given, torch.ones(self.draws), self.eta)
        return weight[:, 0] - weight[:, 1]


def subspace_angles(
    bank: Tensor,
    contrast: Tensor,
    covariance: Tensor,
    states: Tensor,
    shuffled: Tensor | None,
    generator: torch.Generator,
    draws: int = 200,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Smallest angle between bank and contrast among weights and among signals, and the nulls.

    Args:
        bank: readouts of the latencies [M, N].
        contrast: [1, N].
        covariance: of the states [N, N].
        states: visited states [S, N].
        shuffled: contrasts of shuffled identities [D, N]; None: that null is NaN.
        generator: of the draws.
        draws: directions of a null.

    Returns:
        Angles in degrees by space ("weights", "signals"), scalar; nulls by space, [4, 3]: a row a kind of `NULLS`,
        with quantiles 1, 50 and 99 %.
    """
    n = bank.shape[1]
    directions: dict[str, Tensor | None] = {
        "isotropic": random_directions("isotropic", draws, n, generator),
        "covariance": random_directions("covariance", draws, n, generator, covariance),
        "states": random_directions("states", draws, n, generator, states=states),
        "shuffled": shuffled,
    }
    quantiles = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
    angles, nulls = {}, {}
    for space, metric in (("weights", None), ("signals", covariance)):
        angles[space] = principal_angles(bank, contrast, metric)[0]
        table = []
        for kind in NULLS:
            drawn = directions[kind]
            nothing = drawn is None or not bool(drawn.any())
            table.append(
                torch.full((3,), torch.nan, dtype=torch.float64)
                if drawn is None or nothing
                else null_angles(bank, drawn, metric).nanquantile(quantiles)
            )
        nulls[space] = torch.stack(table)
    return angles, nulls
