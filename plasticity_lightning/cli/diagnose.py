"""`plasticity diagnose`: the measures of a trained checkpoint, layer by layer, on one batch of the recipe's data.

The module's own training step runs once with the checkpoint's weights and optimisers under a `PlasticityMonitor`; the
weights are put back before anything is measured after the step. Nothing is logged or saved, and the recipe's callbacks
do not run. With `--coverage` they do, without a checkpoint and up to the first optimiser step, and the table tells part by part
what they act on.
"""

import argparse
import contextlib
import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.table import Table

from plasticity_lightning.callbacks.monitoring.plasticity_monitor import PlasticityMonitor
from plasticity_lightning.cli.app import PlasticityCLI, exit_status
from plasticity_lightning.cli.tables import print_table
from plasticity_lightning.errors import UserError
from plasticity_lightning.measures.aggregate import NETWORK
from plasticity_lightning.measures.registry import MEASURES, Measure, chosen_measures
from plasticity_lightning.protocols import HasCoverage, HasLiquid
from plasticity_lightning.runtime.checkpoint_file import read_checkpoint
from plasticity_lightning.runtime.coverage import CoverageSummary, coverage_rows, coverage_table

__all__ = ["diagnose"]

_TABLES = {
    "activities": ("activations", "preactivations", "spikes"),
    "weights and gradients": ("weights", "gradients"),
    "whole network": ("probe",),
}


def diagnose(args: list[str], recipe: str | None = None) -> int:
    """Run the command and return the exit status.

    Args:
        args: arguments after `diagnose`, with recipe names resolved to files.
        recipe: name of the recipe, which tells where `--ckpt_path last` looks.
    """

    def command() -> PlasticityCLI:
        options, rest = _parser().parse_known_args(args)
        without = {"-h", "--help"} & set(rest) or options.coverage
        if not without and not any(arg.split("=")[0] == "--ckpt_path" for arg in rest):
            raise UserError("--ckpt_path is missing; allowed: last, best or the path of a checkpoint")
        try:
            cli = _DiagnoseCLI(["fit", *rest], recipe, options)
        except MisconfigurationException as error:
            raise UserError(str(error)) from error
        if cli.monitor is not None:
            _print(cli.monitor, bool(options.measures))
        return cli

    return exit_status(command)


class _DiagnoseCLI(PlasticityCLI):
    """`fit` of one batch that opens no run, writes nothing and ends with the checkpoint's weights."""

    def __init__(self, args: list[str], recipe: str | None, options: argparse.Namespace) -> None:
        self.options = options
        self.monitor: PlasticityMonitor | None = None
        super().__init__(args, recipe)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer of one batch on one device, with the monitor as its only callback of note."""
        config = self._get(self.config_init, "trainer")
        listed = (
            config.callbacks if isinstance(config.callbacks, list) else [config.callbacks] if config.callbacks else []
        )
        settings: dict[str, Any] = {
            "accelerator": config.accelerator,
            "devices": 1,
            "precision": config.precision,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        if self.options.coverage:
            covered = [c for c in listed if isinstance(c, Callback) and isinstance(c, HasCoverage)]
            if not covered:
                raise UserError("--coverage: none of the recipe's callbacks tells what it covers")
            # lengths are the recipe's, for callbacks that plan by them and modules that ask for validation
            names = (
                "max_epochs",
                "max_steps",
                "min_epochs",
                "limit_train_batches",
                "limit_val_batches",
                "val_check_interval",
            )
            length = {name: config[name] for name in names}
            callbacks: list[Callback] = [self._setup_end, *covered, _CoverageOnly()]
            return Trainer(**settings, **length, callbacks=callbacks)
        checkpoint = read_checkpoint(Path(self._get(self.config, "ckpt_path")))
        self.monitor = _monitor(self.options, checkpoint, listed)
        callbacks = [self._setup_end, CoverageSummary(quiet=True), _Checkpointed(checkpoint), self.monitor]
        return Trainer(**settings, max_epochs=1, limit_train_batches=1, limit_val_batches=0, callbacks=callbacks)

    def _keep_settings(self, content: dict[str, Any]) -> None:
        """Of the run's settings only the model's matter: nothing is resumed."""
        self._take_hyperparameters(content)

    def _run_subcommand(self, subcommand: str) -> None:
        if isinstance(self.model, HasLiquid) and not self.options.coverage:
            raise UserError(f"{type(self.model).__name__} has a liquid: `plasticity diagnose-liquid` measures it")
        # a new fit, not a resumed one: the loops of a finished run would do nothing
        self.config[self.config.subcommand].ckpt_path = None
        self.config_init[self.config.subcommand].ckpt_path = None
        with contextlib.suppress(_Enough):
            super()._run_subcommand(subcommand)

    def _after_training(self) -> None:
        """No test and no hyperparameters follow."""


class _Enough(Exception):  # noqa: N818 - nothing went wrong
    """All has been seen."""


class _CoverageOnly(CoverageSummary):
    """Ends the run once the table is due, without the end of an epoch, which may take long."""

    def show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and leave."""
        print_table(coverage_table(coverage_rows(trainer, pl_module), full=True))
        raise _Enough


class _Checkpointed(Callback):
    """Gives the module and its optimisers the state of a checkpoint, and the weights once more after the step."""

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the weights, after `setup` has made what they belong to."""
        pl_module.on_load_checkpoint(self.checkpoint)
        try:
            pl_module.load_state_dict(self.checkpoint["state_dict"])
        except RuntimeError as error:
            first = "; ".join(line.strip() for line in str(error).splitlines()[:3])
            raise UserError(f"--ckpt_path: the checkpoint does not fit the recipe's model: {first}") from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the optimisers, so that the update is the one that training would have made."""
        states = self.checkpoint.get("optimizer_states", [])
        for optimizer, state in zip(trainer.optimizers, states, strict=False):
            optimizer.load_state_dict(copy.deepcopy(state))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put the weights back: the monitor, which comes next, probes the checkpoint and not the step after it."""
        pl_module.load_state_dict(self.checkpoint["state_dict"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plasticity diagnose", add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--measures",
        help="names and import paths, separated by commas; default: all but the expensive ones, and the recipe's own",
    )
    parser.add_argument(
        "--coverage", action="store_true", help="instead: what the recipe's callbacks act on, and why not"
    )
    parser.add_argument("--probe", action="store_true", help="also the expensive ones")
    parser.add_argument("--probe_size", type=int, default=64, help="samples of the probe batch")
    parser.add_argument("--network", help="dotted name of the network that is probed")
    return parser


def _monitor(options: argparse.Namespace, checkpoint: dict[str, Any], listed: list[Any]) -> PlasticityMonitor:
    """The monitor for these options, with the first weights if the checkpoint has them from a monitor of the run."""
    states = [s for key, s in checkpoint.get("callbacks", {}).items() if key.startswith(PlasticityMonitor.__name__)]
    initial: dict[str, torch.Tensor] = next((s["initial"] for s in states if s.get("initial")), {})
    measures: list[Measure]
    try:
        if options.measures:
            measures = list(chosen_measures([name.strip() for name in options.measures.split(",")]).values())
        else:
            own = [m for c in listed if isinstance(c, PlasticityMonitor) for m in c.entries.values()]
            measures = [
                measure
                for measure in (MEASURES | {m.name: m for m in own}).values()
                if not measure.elsewhere
                and (options.probe or measure.cost != "expensive")
                and (initial or measure.given != "initial")
            ]
    except ValueError as error:
        raise UserError(f"--measures: {error}") from error
    compared = [measure.name for measure in measures if measure.given == "initial" and not initial]
    if compared:
        raise UserError(
            f"--measures {','.join(compared)}: the checkpoint holds no first weights; train with a PlasticityMonitor "
            "that measures it"
        )
    try:
        monitor = PlasticityMonitor(
            measures,
            strict=bool(options.measures),
            every=1,
            per_layer=True,
            figure_every=0,
            probe_size=options.probe_size,
            network=options.network,
        )
    except ValueError as error:
        raise UserError(f"--{error}") from error
    monitor.load_state_dict({**monitor.state_dict(), "initial": initial})
    return monitor


def _print(monitor: PlasticityMonitor, asked: bool) -> None:
    """One table for each kind of measure: layers, then groups, by measures."""
    found = {tag.split("/")[1] for tag in monitor.latest}
    missing = [name for name in monitor.measures if name not in found]
    if missing and asked:
        raise UserError(f"--measures {','.join(missing)}: one training step on one batch gives no value")
    if not found:
        raise UserError(
            "no measure finds anything here: no activation, matrix or gradient takes part in a training step; "
            "`plasticity test` tells the module's own scores"
        )
    for title, needs in _TABLES.items():
        layers: dict[str, dict[str, float]] = {}
        groups: dict[str, dict[str, float]] = {}
        columns: list[str] = []
        for tag, value in monitor.latest.items():
            _, measure, group, *layer = tag.split("/", 3)
            entry = monitor.entries.get(measure)
            if (entry.needs if entry is not None else "probe") not in needs:
                continue
            columns += [measure] if measure not in columns else []
            rows, row = (layers, layer[0]) if layer else (groups, group)
            rows.setdefault(row, {})[measure] = float(value)
        if not columns:
            continue
        table = Table("layer", title=title)
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for name, values in layers.items():
            table.add_row(name, *(_number(values.get(column)) for column in columns))
        table.add_section()
        for name, values in sorted(groups.items(), key=lambda item: item[0] == NETWORK):
            table.add_row(f"group {name}", *(_number(values.get(column)) for column in columns))
        print_table(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
