"""`plasticity export`: a checkpoint's network as one file that runs without the recipe, with its size and speed before and after.

The recipe's own validation runs on a few batches with the checkpoint's weights; what goes into the network there is what
the file is recorded with, compared on and timed on. Nothing but the file is written.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.table import Table
from torch import Tensor, nn

from plasticity_lightning.cli.app import PlasticityCLI, exit_status
from plasticity_lightning.cli.arguments import CommandParser
from plasticity_lightning.cli.tables import print_table
from plasticity_lightning.errors import UserError, nearest
from plasticity_lightning.sparsity.compress import Format, check_format, zeros_share
from plasticity_lightning.sparsity.selection import layer_weights
from plasticity_lightning.studies.export import Exported, Inputs, Latency, export_network, latencies

__all__ = ["export"]


def export(args: list[str], recipe: str | None = None) -> int:
    """Run the command and return the exit status.

    Args:
        args: arguments after `export`, with recipe names resolved to files.
        recipe: name of the recipe, which tells where `--ckpt_path last` looks.
    """

    def command() -> PlasticityCLI:
        options, rest = _parser().parse_known_args(args)
        if options.help:
            print(_parser().format_help())
            raise SystemExit(0)
        _check(options, rest)
        try:
            return _ExportCLI(["validate", *rest], recipe, options)
        except MisconfigurationException as error:
            raise UserError(str(error)) from error

    return exit_status(command)


class _ExportCLI(PlasticityCLI):
    """`validate` on a few batches without a logger or the recipe's callbacks; the network's inputs are kept, then it is exported."""

    def __init__(self, args: list[str], recipe: str | None, options: argparse.Namespace) -> None:
        self.options = options
        self.seen = _Inputs(options.network)
        super().__init__(args, recipe)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer of a few batches on the CPU."""
        return Trainer(
            accelerator="cpu",
            devices=1,
            precision="32-true",
            limit_val_batches=self.options.batches,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self._setup_end, self.seen],
        )

    def _run_subcommand(self, subcommand: str) -> None:
        self.config_init[subcommand].verbose = False  # metrics of these few batches would mislead
        # the recipe's callbacks are left out on purpose
        warnings.filterwarnings("ignore", message=r".*callbacks used to create the checkpoint need to be provided")
        super()._run_subcommand(subcommand)
        options, network = self.options, self.seen.network
        if network is None or not self.seen.batches:
            raise UserError(
                "the recipe's validation gave the network no input; `export` compares outputs on real batches, "
                "so the recipe needs validation data"
            )
        try:
            done = export_network(
                network, self.seen.batches, options.format, options.output, options.min_sparsity, options.project
            )
        except ValueError as error:
            raise UserError(f"--format {options.format}: {error}") from error
        _print_layers(done, options)
        if options.seconds > 0:
            threads = sorted({1, torch.get_num_threads()})
            sizes = options.batch_sizes
            _print_latencies(latencies(network, done.module, self.seen.batches, sizes, threads, options.seconds))


class _Inputs(Callback):
    """Finds the network and keeps what goes into it during validation."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.network: nn.Module | None = None
        self.batches: list[Inputs] = []
        self._handle: Any = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the network's calls."""
        self.network = _network(pl_module, self.name)
        self._handle = self.network.register_forward_pre_hook(self._keep, with_kwargs=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch no more."""
        self._handle.remove()

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
            raise UserError(
                f"--network: {type(module).__name__} is called with other things than tensors by position "
                f"({[type(a).__name__ for a in args]}, {list(kwargs)}); name a part of it that is not"
            )
        self.batches.append(tuple(a.detach().clone() for a in args))


def _network(pl_module: LightningModule, name: str | None) -> nn.Module:
    """The named part, or the child that holds all sparse weights, or where none is sparse all weights."""
    if name is not None:
        parts = dict(pl_module.named_modules())
        if name not in parts:
            raise UserError(
                f"--network {name!r}: no such part; parts: {', '.join(list(parts)[1:21])}{nearest(name, parts)}"
            )
        return parts[name]
    weights = layer_weights(pl_module)
    sparse = [n for n, w in weights.items() if zeros_share(w) > 0] or list(weights)
    owners = {n.partition(".")[0] for n in sparse}
    if not owners:
        raise UserError(
            f"{type(pl_module).__name__} has no linear or convolutional layer: there is no network to export"
        )
    if len(owners) != 1:
        raise UserError(f"the weights are in {', '.join(sorted(owners))}: say by --network which part to export")
    return pl_module.get_submodule(owners.pop())


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="plasticity export",
        usage="plasticity export --config RECIPE --ckpt_path X --format FORMAT --output FILE [options]",
        description=(__doc__ or "").partition("\n")[0],
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--format", metavar="FORMAT", help=f"one of {', '.join(get_args(Format))}")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file to write (TorchScript)")
    parser.add_argument(
        "--network", metavar="NAME", help="part of the module to export; default: what holds the weights"
    )
    parser.add_argument(
        "--min_sparsity", type=float, default=0.5, metavar="S", help="layers with fewer zeros stay dense (0.5)"
    )
    parser.add_argument(
        "--project", action="store_true", help="for 2:4: set weights beyond two of four to 0; outputs change"
    )
    parser.add_argument(
        "--batches", type=int, default=4, metavar="N", help="validation batches to compare outputs on (4)"
    )
    parser.add_argument(
        "--batch_sizes", type=_sizes, default=[1, 8, 64, 256], metavar="N,N", help="of the latency table (1,8,64,256)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.25, metavar="T", help="of each measurement; 0 measures nothing (0.25)"
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this text")
    return parser


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",")]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers of at least 1")
    return sizes


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    if options.format is None:
        raise UserError(f"--format is missing; one of {', '.join(get_args(Format))}")
    try:
        check_format(options.format)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    if options.output is None:
        raise UserError("--output is missing: the file to write")
    if options.output.is_dir():
        raise UserError(f"--output {options.output} is a folder; give the path of a file")
    if not any(arg.split("=")[0] == "--ckpt_path" for arg in rest):
        raise UserError("--ckpt_path is missing; allowed: last, best or the path of a checkpoint")
    if options.batches < 1:
        raise UserError(f"--batches {options.batches} must be at least 1")
    if options.seconds < 0:
        raise UserError(f"--seconds {options.seconds} must not be negative")


def _print_layers(done: Exported, options: argparse.Namespace) -> None:
    table = Table("layer", "shape", "zeros", "form", "", title=f"{options.output}")
    for row in done.layers:
        table.add_row(row.name, "x".join(map(str, row.shape)), f"{row.zeros:.1%}", row.form, row.note)
    print_table(table)
    print(
        f"{done.bytes_after:,} bytes, {done.bytes_before / done.bytes_after:.2f} times smaller than dense ({done.bytes_before:,}); "
        f"outputs differ by at most {done.difference:.2g}"
    )


def _print_latencies(rows: list[Latency]) -> None:
    table = Table(title="microseconds a call, on this machine, in turn")
    for name in ("threads", "batch", "before", "after", "faster by"):
        table.add_column(name, justify="right")
    for row in rows:
        before, after = 1e6 * row.before, 1e6 * row.after
        table.add_row(str(row.threads), str(row.batch), f"{before:.0f}", f"{after:.0f}", f"{before / after:.2f}")
    print_table(table)
