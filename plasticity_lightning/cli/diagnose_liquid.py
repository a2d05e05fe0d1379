"""`plasticity diagnose-liquid`: what the liquid of a checkpoint does with test items, in one table.

Simulates clean and noisy versions of the same items as in feature extraction and prints the branching factor, rates and
the two ranks of kernel quality. Works for any module that offers `protocols.HasLiquid`; nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from plasticity_lightning.callbacks.liquid.liquid_monitor import liquid_measures
from plasticity_lightning.cli.app import PlasticityCLI, exit_status
from plasticity_lightning.cli.tables import print_table
from plasticity_lightning.errors import UserError
from plasticity_lightning.measures.kernel import approximation_rank, separation_rank
from plasticity_lightning.measures.spiking import participation_ratio
from plasticity_lightning.protocols import HasLiquid
from plasticity_lightning.runtime.checkpoint_file import read_checkpoint
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid.item_batches import join_batches, select_items, spaced_items
from plasticity_lightning.spiking.noise import noisy_images, shifted_trains

__all__ = ["run"]

_COMMAND = "diagnose-liquid"
_PER_CLASS = 100  # items, as in the paper's script
_CHUNK = 50  # items simulated at once: every one of their spikes is kept


def run(args: list[str], recipe: str | None = None) -> int:
    """Run the command and return the exit status.

    Args:
        args: arguments with the command first and recipe names resolved to files.
        recipe: name of the recipe, which tells where `--ckpt_path last` looks.
    """
    return exit_status(lambda: _LiquidCLI(args, recipe))


class _LiquidTrainer(Trainer):
    """A Trainer whose method of the command's name has the command's options, as LightningCLI wants it."""

    def _diagnose(
        self,
        ckpt_path: str,
        n_items: int = 2000,
        per_class: int | None = None,
        draws: int = 20,
        noise_std: float = 125.0,
        noise_shift: float = 10.0,
        seed: int = 0,
    ) -> None:
        """Branching factor, rates and kernel ranks of a checkpoint's liquid.

        Args:
            ckpt_path: last, best or the path of a checkpoint.
            n_items: test items simulated, clean and noisy.
            per_class: items of each class in a draw for the ranks; null takes 100, or as many as the rarest class has.
            draws: over how many draws a rank is averaged; the paper's script takes 1000.
            noise_std: of images for the approximation rank, on the scale of 0 to 255.
            noise_shift: of events: standard deviation of one shift a recording, in ms.
            seed: of the noise and the draws.
        """


setattr(_LiquidTrainer, _COMMAND, _LiquidTrainer._diagnose)


class _LiquidCLI(PlasticityCLI):
    """Builds the recipe's module and data, and gives the module the checkpoint."""

    def __init__(self, args: list[str], recipe: str | None) -> None:
        super().__init__(args, recipe, trainer_class=_LiquidTrainer)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The one command."""
        return {_COMMAND: set()}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer that runs nothing and writes nothing."""
        return Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )

    def _run_subcommand(self, subcommand: str) -> None:
        options, model = self.config[_COMMAND], self.model
        if not isinstance(model, HasLiquid):
            raise UserError(
                f"{type(model).__name__} has no liquid (`liquid`, `weight` and `record(batch)`); "
                "`plasticity diagnose` measures other networks"
            )
        checkpoint = read_checkpoint(Path(options.ckpt_path))
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        model.eval()
        try:
            if options.n_items < 1:
                raise ValueError(f"n_items={options.n_items} must be at least 1")
            batch = _test_items(self.datamodule, options.n_items)
            _print(_measure(model, batch, options))
        except ValueError as error:
            raise UserError(str(error)) from error


def _test_items(data: LightningDataModule, n: int) -> dict[str, Any]:
    data.prepare_data()
    data.setup("test")
    batches = list(data.test_dataloader())
    if not batches or not isinstance(batches[0], dict) or not {"label", "index"} <= batches[0].keys():
        raise ValueError(
            "a liquid needs test batches that are dicts with `label`, `index` and `image` or `events`; "
            "the package's data modules give them with with_index=True"
        )
    return spaced_items(join_batches(batches), n)


@torch.no_grad()
def _measure(model: Any, batch: dict[str, Any], options: Any) -> dict[str, float]:
    generator = torch.Generator().manual_seed(options.seed)
    noisy = _noisy(batch, options.noise_std, options.noise_shift, generator)
    values = liquid_measures(model.liquid, model.record(spaced_items(batch, 20)))
    clean_counts, noisy_counts = _counts(model, batch, "clean items"), _counts(model, noisy, "noisy items")
    values["mean_spikes_per_item"] = float(clean_counts.double().sum(1).mean())
    values["participation_ratio"] = float(participation_ratio(clean_counts))
    labels = batch["label"].cpu()
    sizes = {"per_class": _per_class(options.per_class, labels), "draws": options.draws}
    values["separation_rank"] = float(separation_rank(clean_counts, labels, generator, **sizes))
    values["approximation_rank"] = float(approximation_rank(noisy_counts, labels, generator, **sizes))
    return values


def _per_class(asked: int | None, labels: Tensor) -> int:
    """What was asked for, or the paper's 100 as far as the items reach, which is said."""
    if asked is not None:
        return asked
    rarest = int(labels.bincount()[labels.unique()].min())
    if rarest < _PER_CLASS:
        print(
            f"note: ranks over {rarest} items a class, not {_PER_CLASS}: the rarest class has no more", file=sys.stderr
        )
    return min(_PER_CLASS, rarest)


def _noisy(batch: dict[str, Any], std: float, shift: float, generator: torch.Generator) -> dict[str, Any]:
    changed = dict(batch)
    if "image" in batch:
        changed["image"] = noisy_images(batch["image"], std, generator)
    else:
        if not shift >= 0:
            raise ValueError(f"noise_shift={shift} must be at least 0")
        trains: SpikeTrains = batch["events"]
        moved = shift * torch.randn(trains.n_samples, generator=generator)
        changed["events"] = shifted_trains(trains, moved.round().long())
    return changed


def _counts(model: Any, batch: dict[str, Any], what: str) -> Tensor:
    def chunks() -> Iterator[Tensor]:
        parts, console = torch.arange(len(batch["label"])).split(_CHUNK), Console(stderr=True)
        for index in track(parts, description=what, transient=True, console=console):
            yield model.record(select_items(batch, index)).counts

    return torch.cat(list(chunks()))


def _print(values: dict[str, float]) -> None:
    table = Table("measure", title="liquid")
    table.add_column("value", justify="right")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}")
    print_table(table)
