"""`plasticity diagnose`: the measures of a trained checkpoint, layer by layer, on one batch of the recipe's data.

The module's own training step runs once with the checkpoint's weights and optimisers under a `PlasticityMonitor`; the
weights are put back before anything is measured after the step. Nothing is logged or saved, and the recipe's callbacks
do not run.
"""

import argparse
import copy
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
from plasticity_lightning.measures.registry import MEASURES
from plasticity_lightning.protocols import HasLiquid

__all__ = ["diagnose"]

_NEEDS_MORE = {"branching_factor", "separation_rank", "approximation_rank", "grad_direction"}  # than one step
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
        if not {"-h", "--help"} & set(rest) and not any(arg.split("=")[0] == "--ckpt_path" for arg in rest):
            raise UserError("--ckpt_path is missing; allowed: last, best or the path of a checkpoint")
        try:
            cli = _DiagnoseCLI(["fit", *rest], recipe, options)
        except MisconfigurationException as error:
            raise UserError(str(error)) from error
        if cli.monitor is not None:
            _print(cli.monitor)
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
        checkpoint = torch.load(self._get(self.config, "ckpt_path"), map_location="cpu", weights_only=True)
        self.monitor = _monitor(self.options, checkpoint)
        return Trainer(
            accelerator=config.accelerator,
            devices=1,
            precision=config.precision,
            max_epochs=1,
            limit_train_batches=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self._setup_end, _Checkpointed(checkpoint), self.monitor],
        )

    def _run_subcommand(self, subcommand: str) -> None:
        if isinstance(self.model, HasLiquid):
            raise UserError(f"{type(self.model).__name__} has a liquid: `plasticity diagnose-liquid` measures it")
        # a new fit, not a resumed one: the loops of a finished run would do nothing
        self.config[self.config.subcommand].ckpt_path = None
        self.config_init[self.config.subcommand].ckpt_path = None
        super()._run_subcommand(subcommand)

    def _after_training(self) -> None:
        """No test and no hyperparameters follow."""


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
    parser.add_argument("--measures", help="names separated by commas; default: all but the expensive ones")
    parser.add_argument("--probe", action="store_true", help="also the expensive ones")
    parser.add_argument("--probe_size", type=int, default=64, help="samples of the probe batch")
    parser.add_argument("--network", help="dotted name of the network that is probed")
    return parser


def _monitor(options: argparse.Namespace, checkpoint: dict[str, Any]) -> PlasticityMonitor:
    """The monitor for these options, with the first weights if the checkpoint has them from a monitor of the run."""
    states = [s for key, s in checkpoint.get("callbacks", {}).items() if key.startswith(PlasticityMonitor.__name__)]
    initial: dict[str, torch.Tensor] = next((s["initial"] for s in states if s.get("initial")), {})
    if options.measures:
        measures = [name.strip() for name in options.measures.split(",")]
        if "distance_from_init" in measures and not initial:
            raise UserError(
                "--measures distance_from_init: the checkpoint holds no first weights; train with a PlasticityMonitor "
                "that measures distance_from_init"
            )
        if "grad_direction" in measures:
            raise UserError("--measures grad_direction compares two steps, and diagnose makes one")
    else:
        measures = [
            name
            for name, measure in MEASURES.items()
            if name not in _NEEDS_MORE
            and (options.probe or measure.cost != "expensive")
            and (initial or name != "distance_from_init")
        ]
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


def _print(monitor: PlasticityMonitor) -> None:
    """One table for each kind of measure: layers, then groups, by measures."""
    for title, needs in _TABLES.items():
        layers: dict[str, dict[str, float]] = {}
        groups: dict[str, dict[str, float]] = {}
        columns: list[str] = []
        for tag, value in monitor.latest.items():
            _, measure, group, *layer = tag.split("/", 3)
            entry = MEASURES.get(measure)
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
