"""`plasticity pruning-plasticity`: the pruning plasticity of a recipe's checkpoints, by one command.

Builds the recipe's module, data and Trainer anew for every continuation and hands them to `cli.pruning_study`; prints a
table and writes CSV, JSON and the figure. Callbacks that save, and those that prune by themselves, are left out.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.table import Table

from plasticity_lightning.callbacks.sparse_training.one_shot_pruning import PruneShare
from plasticity_lightning.callbacks.sparse_training.prune_regrow import PruneRegrowScheduler
from plasticity_lightning.cli.app import PlasticityCLI, RunConfig, exit_status
from plasticity_lightning.cli.runs import claim_run_dir, resolve_checkpoint
from plasticity_lightning.cli.tables import print_table
from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.atomic_file import atomic_file, clear_stale
from plasticity_lightning.studies.pruning_plasticity import (
    LearningRate,
    Outcome,
    StudyStopped,
    arms,
    run_study,
    write_outcomes,
)
from plasticity_lightning.viz.pruning import pruning_plasticity

__all__ = ["run"]

_COMMAND = "pruning-plasticity"
_LEFT_OUT = (Checkpoint, LearningRateMonitor, PruneRegrowScheduler, RunConfig)


def run(args: list[str], recipe: str | None = None) -> int:
    """Run the command and return the exit status.

    Args:
        args: arguments with the command first and recipe names resolved to files.
        recipe: name for the folder `runs/<recipe>`.
    """
    return exit_status(lambda: _StudyCLI(args, recipe))


class _StudyTrainer(Trainer):
    """A Trainer whose method of the command's name has the command's options, as LightningCLI wants it."""

    def _study(
        self,
        ckpt_path: str | list[str],
        epochs: int,
        prune_rates: list[float] = [0.2, 0.5, 0.8, 0.9, 0.98],  # noqa: B006 - shown by --help, never changed
        shares: list[PruneShare] = ["uniform"],  # noqa: B006
        regenerate: list[bool] = [False, True],  # noqa: B006
        metric: str = "val/accuracy",
        learning_rate: LearningRate = "schedule",
        output: str | None = None,
    ) -> None:
        """Prune checkpoints, continue training, compare with the unpruned network.

        Args:
            ckpt_path: one checkpoint or a list "[a.ckpt,b.ckpt]"; last and best are those of the newest run.
            epochs: how many to continue for.
            prune_rates: shares of the weights to prune, each in (0, 1).
            shares: uniform prunes each layer by the rate, global all layers together.
            regenerate: whether to grow as many connections by gradient; both by default.
            metric: what is compared; one that starts with "test" is measured on the test data.
            learning_rate: schedule goes on with the checkpoint's schedule, constant holds the value reached.
            output: folder for outcomes.csv, outcomes.json and plasticity.png; a fresh one by default.
        """


setattr(_StudyTrainer, _COMMAND, _StudyTrainer._study)


class _StudyCLI(PlasticityCLI):
    """Parses the recipe and the command's options; builds a Trainer and a module as often as they are needed."""

    def __init__(self, args: list[str], recipe: str | None) -> None:
        self._extra: list[Callback] = []
        super().__init__(args, recipe, trainer_class=_StudyTrainer)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The one command."""
        return {_COMMAND: set()}

    def _parse_ckpt_path(self) -> None:
        config = self.config[_COMMAND]
        given = config.ckpt_path if isinstance(config.ckpt_path, list) else [config.ckpt_path]
        self.checkpoints = [
            resolve_checkpoint(self.root, which)[0] if which in ("last", "best") else Path(which) for which in given
        ]
        missing = [str(path) for path in self.checkpoints if not path.is_file()]
        if missing or not given:
            raise UserError(
                f"--ckpt_path {' '.join(missing)}: no such file; allowed: last, best or paths of checkpoints"
            )

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        listed = [c for c in config["callbacks"] if not isinstance(c, _LEFT_OUT)]
        saved, self.save_config_callback = self.save_config_callback, None
        trainer = super()._instantiate_trainer({**config, "callbacks": [*listed, *self._extra]}, callbacks)
        self.save_config_callback = saved
        return trainer

    def build(self, extra: list[Callback], max_epochs: int) -> tuple[Trainer, LightningModule, LightningDataModule]:
        """A fresh Trainer with these callbacks too and a fresh module; the data module is shared."""
        self._set_seed()
        self.config_init = self.parser.instantiate_classes(self.config)
        self._extra = extra
        trainer = self.instantiate_trainer(
            max_epochs=max_epochs,
            max_steps=-1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        return trainer, self._get(self.config_init, "model"), self.datamodule

    def _run_subcommand(self, subcommand: str) -> None:
        config = self.config[_COMMAND]
        # they are left out on purpose
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided")
        plan = arms(config.prune_rates, config.shares, config.regenerate)
        folder = Path(config.output) if config.output else claim_run_dir(self.root / "pruning_plasticity")
        clear_stale(folder)
        outcomes: list[Outcome] = []
        study = run_study(self.build, self.checkpoints, plan, config.epochs, config.metric, config.learning_rate)
        try:
            for outcome in study:
                outcomes.append(outcome)
                write_outcomes(outcomes, folder)
                print(
                    f"{len(outcomes)}/{len(plan) * len(self.checkpoints)}: epoch {outcome.epoch}, {outcome.share} "
                    f"{outcome.rate:.0%}{', regenerated' if outcome.regenerate else ''}: {outcome.plasticity:+.4f}"
                )
        except MisconfigurationException as error:  # a module that cannot be pruned, found as each Trainer sets up
            raise UserError(str(error)) from error
        except StudyStopped as stop:
            self.exit_status = 128 + stop.signal_number
            print(f"stopped on request; finished outcomes, if any: {folder}/")
            return
        _print_table(outcomes, config.metric, config.epochs)
        _figure(outcomes, config.metric, folder)
        print(f"{folder}/: outcomes.csv, outcomes.json, plasticity.png")


def _print_table(outcomes: list[Outcome], metric: str, epochs: int) -> None:
    table = Table(title=f"pruning plasticity: {metric}, {epochs} more epochs")
    for name in ("epoch", "lr", "share", "pruned", "regenerated", "checkpoint", "right after", "continued", "unpruned"):
        table.add_column(name, justify="right")
    table.add_column("plasticity", justify="right", style="bold")
    for o in outcomes:
        values = (o.before, o.pruned, o.continued, o.unpruned)
        table.add_row(
            str(o.epoch),
            f"{o.learning_rate:.3g}",
            o.share,
            f"{o.rate:.0%}",
            "yes" if o.regenerate else "no",
            *(f"{value:.4f}" for value in values),
            f"{o.plasticity:+.4f}",
        )
    print_table(table)


def _figure(outcomes: list[Outcome], metric: str, folder: Path) -> None:
    names = ("epoch", "learning_rate", "rate", "share", "regenerate", "plasticity")
    columns: dict[str, Any] = {name: [getattr(outcome, name) for outcome in outcomes] for name in names}
    with atomic_file(folder / "plasticity.png") as file:
        pruning_plasticity(**columns, metric=metric).savefig(file, format="png")
