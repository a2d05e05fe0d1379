"""The LightningCLI behind `plasticity fit|validate|test|predict`.

Adds to LightningCLI: the callbacks that every recipe gets, run folders that are never overwritten, `--ckpt_path
last|best`, the test after `fit`, and errors told in one message. Importing this file imports torch and Lightning.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch.callbacks
import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table

import plasticity_lightning.callbacks
import plasticity_lightning.data
import plasticity_lightning.modules
import plasticity_lightning.runtime
from plasticity_lightning.cli.errors import cause, distil
from plasticity_lightning.cli.runs import claim_run_dir, resolve_checkpoint
from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.checkpoint import AtomicCheckpoint
from plasticity_lightning.runtime.graceful_stop import GracefulStop
from plasticity_lightning.runtime.heap import keep_heap
from plasticity_lightning.runtime.rng import RNGState

__all__ = ["PlasticityCLI", "exit_status", "run"]

_EXPECTED = (ValueError, TypeError, MisconfigurationException, UserError)


def run(args: list[str], recipe: str | None = None) -> int:
    """Run one command and return the exit status.

    Args:
        args: arguments with the command first and recipe names resolved to files.
        recipe: name for the run folder `runs/<recipe>`; None takes the name of the model class.
    """
    return exit_status(lambda: PlasticityCLI(args, recipe))


def exit_status(command: Callable[[], "PlasticityCLI"]) -> int:
    """The exit status of a command, which building its CLI runs; a mistake in the input becomes one message and 2."""
    try:
        return command().exit_status
    except UserError as error:
        print(f"plasticity: error: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:  # --help, --print_config and parser errors
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1


class PlasticityParser(LightningArgumentParser):
    """Reports one clear message and exits with status 2; option names are not abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False  # else a misspelt key that is a prefix passes silently

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print the distilled message and exit."""
        keys = {action.dest for action in self._actions}
        for action in self._actions:  # the top parser has the options of its commands
            for command in (getattr(action, "_name_parser_map", None) or {}).values():
                keys |= {option.dest for option in command._actions}
        print(f"plasticity: error: {distil(message, ex, sorted(keys), _public_classes())}", file=sys.stderr)
        raise SystemExit(2)


class RunConfig(SaveConfigCallback):
    """Saves `config.yaml` in the run folder and marks the end of the set-up phase."""

    set_up = False
    run_dir: Path | None = None

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the complete configuration; a resumed run replaces its own file."""
        if stage == "fit" and self.run_dir is not None:
            self.parser.save(
                self.config,
                self.run_dir / self.config_filename,
                skip_none=False,
                overwrite=True,
                multifile=self.multifile,
            )


class _SetupEnd(Callback):
    """Notes when set-up is over: errors before it are mistakes in the input, later ones keep their traceback."""

    over = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.over = True

    on_validation_start = on_test_start = on_predict_start = on_fit_start


_SHARED = ("rng", "graceful_stop", "checkpoint")


class PlasticityCLI(LightningCLI):
    """LightningCLI with the package's classes by short name, run folders and shared callbacks.

    Args:
        args: arguments with the command first.
        recipe: name for the run folder; None takes the name of the model class.
        trainer_class: Trainer, or one with further methods that serve as commands.
    """

    def __init__(self, args: list[str], recipe: str | None = None, trainer_class: type[Trainer] = Trainer) -> None:
        self.recipe = recipe
        self.exit_status = 0
        self.run_dir: Path | None = None
        self._setup_end = _SetupEnd()
        super().__init__(
            LightningModule,
            None,  # any LightningDataModule, or none: a module may make its own data
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_class=trainer_class,
            parser_class=PlasticityParser,
            parser_kwargs={"prog": "plasticity"},
            seed_everything_default=1,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the shared callbacks and the option `test_after_fit`."""
        parser.add_lightning_class_args(RNGState, "rng")
        parser.add_lightning_class_args(GracefulStop, "graceful_stop")
        parser.add_lightning_class_args(AtomicCheckpoint, "checkpoint")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Run the test loop after `fit`.")
        parser.add_argument("--keep_heap", type=bool, default=False, help="Keep freed memory: faster on CPUs (glibc).")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; LightningCLI's warning about explicit arguments does not apply here."""
        self.config = parser.parse_args(args)

    @property
    def root(self) -> Path:
        """The folder of this recipe's runs."""
        config = self.config[self.config.subcommand]
        return Path(config.trainer.default_root_dir or Path("runs") / (self.recipe or _class_name(config.model)))

    def _parse_ckpt_path(self) -> None:
        config = self.config[self.config.subcommand]
        which = config.get("ckpt_path")
        if which in ("last", "best"):
            checkpoint, self.run_dir = resolve_checkpoint(self.root, which)
            config.ckpt_path = str(checkpoint)
        elif which is not None and not Path(which).is_file():
            raise UserError(f"--ckpt_path {which}: no such file; allowed: last, best or the path of a checkpoint")
        before = config.model.clone()
        self._take_hyperparameters(config)
        after = self.config[self.config.subcommand].model
        for key, old, new in _changes(before, after):
            print(f"note: model.{key} is {new!r} as in the checkpoint, not {old!r}", file=sys.stderr)

    def _take_hyperparameters(self, config: Namespace) -> None:
        """The checkpoint's hyperparameters for the command's class: LightningCLI would take the class's place from it, too."""
        if config.get("ckpt_path") is None:
            return
        kept = torch.load(config.ckpt_path, weights_only=True, map_location="cpu").get("hyper_parameters", {})
        arguments = {name: value for name, value in kept.items() if not name.startswith("_")}
        if arguments:
            model = {"class_path": config.model.class_path, "init_args": arguments}
            self.config = self.parser.parse_object({self.config.subcommand: {"model": model}}, self.config)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; a refused value becomes one message."""
        if self._get(self.config, "keep_heap"):
            print(keep_heap(), file=sys.stderr)
        try:
            super().instantiate_classes()
        except _EXPECTED as error:
            raise UserError(_told(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with the run folder, its logger and each shared callback once."""
        config = self._get(self.config_init, "trainer")
        listed = config.callbacks or []
        listed = listed if isinstance(listed, list) else [listed]
        shared = [self._get(self.config_init, key) for key in _SHARED]
        if config.enable_checkpointing is False:
            shared = shared[:2]
        callbacks = [*listed, *(c for c in shared if not any(type(other) is type(c) for other in listed))]
        if self.subcommand == "fit" and not config.fast_dev_run:
            self._open_run([c for c in callbacks if isinstance(c, AtomicCheckpoint)])
        settings: dict[str, Any] = {"callbacks": callbacks, "default_root_dir": str(self.root)}
        if config.logger is None or config.logger is True:
            version = self.run_dir.name if self.run_dir is not None and self.subcommand == "fit" else None
            settings["logger"] = TensorBoardLogger(self.root, name="", version=version, default_hp_metric=False)
        settings.update(kwargs)
        trainer = self._instantiate_trainer({**config, **settings}, [self._setup_end])
        for callback in trainer.callbacks:
            if isinstance(callback, RunConfig):
                callback.run_dir = self.run_dir
        return trainer

    def _open_run(self, savers: list[AtomicCheckpoint]) -> None:
        """Claim a fresh version folder, or keep that of the resumed run; under DDP the first process decides."""
        if self.run_dir is None and rank_zero_only.rank == 0:
            self.run_dir = claim_run_dir(self.root)
        for saver in savers:
            if saver.dirpath is None and self.run_dir is not None:
                saver.dirpath = str(self.run_dir / "checkpoints")

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except UserError:
            raise
        except _EXPECTED as error:
            if self._setup_end.over:
                raise
            raise UserError(_told(error)) from error
        if subcommand == "fit":
            self._after_training()

    def _after_training(self) -> None:
        stopper = next((c for c in self.trainer.callbacks if isinstance(c, GracefulStop)), None)
        if stopper is not None and stopper.stop_requested:
            self.exit_status = 128 + stopper.signal_number
            if self.trainer.is_global_zero:
                print(f"stopped on request; go on with the same command and: --ckpt_path last\nruns: {self.root}")
            return
        metrics: dict[str, float] = {}
        if self._get(self.config, "test_after_fit") and not self.trainer.fast_dev_run and self._has_test():
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
            metrics = {key: float(value) for key, value in self.trainer.callback_metrics.items()}
        if not self.trainer.is_global_zero:
            return
        if metrics:
            _print_metrics(metrics)
        self._log_hparams(metrics)
        if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            print(f"tensorboard --logdir {self.root}")

    def _has_test(self) -> bool:
        has_data = is_overridden("test_dataloader", self.datamodule, LightningDataModule) or is_overridden(
            "test_dataloader", self.model, LightningModule
        )
        return has_data and is_overridden("test_step", self.model, LightningModule)

    def _log_hparams(self, metrics: dict[str, float]) -> None:
        self._dump_config()
        chosen = {key: self.config_dump[key] for key in ("seed_everything", "model", "data") if key in self.config_dump}
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and metrics:
                logger.log_hyperparams(chosen, {f"hp/{key}": value for key, value in metrics.items()})
                logger.save()


def _class_name(model: Any) -> str:
    return str(model.class_path).rpartition(".")[2]


def _told(error: BaseException) -> str:
    return cause(str(error)) or type(error).__name__


def _public_classes() -> dict[str, type]:
    """Classes by the short name that a recipe may use: Lightning's callbacks, then the package's own."""
    packages: tuple[ModuleType, ...] = (
        lightning.pytorch.callbacks,
        plasticity_lightning.modules,
        plasticity_lightning.data,
        plasticity_lightning.callbacks,
        plasticity_lightning.runtime,
    )
    found = {name: getattr(package, name) for package in packages for name in getattr(package, "__all__", ())}
    return {name: value for name, value in found.items() if isinstance(value, type)}


def _changes(before: Namespace, after: Namespace) -> list[tuple[str, Any, Any]]:
    old, new = dict(before.items()), dict(after.items())
    return [(key, old[key], new[key]) for key in old if key in new and old[key] != new[key]]


def _print_metrics(metrics: dict[str, float]) -> None:
    table = Table("metric", "value", title="test")
    for key in sorted(metrics):
        table.add_row(key, f"{metrics[key]:.6g}")
    Console().print(table)
