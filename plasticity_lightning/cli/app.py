"""The LightningCLI behind `plasticity fit|validate|test|predict`.

Adds to LightningCLI: the callbacks that every recipe gets, run folders that are never overwritten, `--ckpt_path
last|best`, the test after `fit`, and errors told in one message. Importing this file imports torch and Lightning.
"""

import errno
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch.callbacks
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ProgressBar
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
from plasticity_lightning.cli.predictions import PredictionFile
from plasticity_lightning.cli.quiet import quieten, quieten_workers
from plasticity_lightning.cli.resume_settings import compare_settings, merged_settings, refuse_loss
from plasticity_lightning.cli.runs import claim_run_dir, resolve_checkpoint
from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime.checkpoint import AtomicCheckpoint
from plasticity_lightning.runtime.checkpoint_file import read_checkpoint
from plasticity_lightning.runtime.divergence import DivergenceGuard
from plasticity_lightning.runtime.graceful_stop import GracefulStop
from plasticity_lightning.runtime.heap import keep_heap
from plasticity_lightning.runtime.progress_bar import PhaseProgressBar
from plasticity_lightning.runtime.rng import RNGState

__all__ = ["PlasticityCLI", "exit_status", "run"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# before training starts these are mistakes in the input, a file that is a folder among them
_EXPECTED = (ValueError, TypeError, MisconfigurationException, UserError, OSError)


def run(args: list[str], recipe: str | None = None) -> int:
    """Run one command and return the exit status.

    Args:
        args: arguments with the command first and recipe names resolved to files.
        recipe: name for the run folder `runs/<recipe>`; None takes the name of the model class.
    """
    return exit_status(lambda: PlasticityCLI(args, recipe))


def exit_status(command: Callable[[], "PlasticityCLI"]) -> int:
    """The exit status of a command, which building its CLI runs; a mistake in the input becomes one message and 2."""
    quieten()
    try:
        with _quiet_writers():
            return command().exit_status
    except UserError as error:
        print(f"plasticity: error: {error}", file=sys.stderr)
        return error.status
    except OSError as error:  # of a writer that is not ours, such as TensorBoard's
        if error.errno not in _FULL:
            raise
        print(
            f"plasticity: error: the disk is full: {error}; make room and go on with --ckpt_path last", file=sys.stderr
        )
        return 2
    except SystemExit as end:  # --help, --print_config and parser errors
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1


@contextmanager
def _quiet_writers() -> Iterator[None]:
    """A thread that a full disk ends, TensorBoard's, prints no traceback: the main thread meets its error and tells it."""
    before = threading.excepthook

    def told(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and args.exc_value.errno in _FULL):
            before(args)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before


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
    """Saves `config.yaml` in the run folder, and the same text in every checkpoint."""

    run_dir: Path | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the complete configuration."""
        checkpoint["settings"] = self.parser.dump(self.config, skip_none=False)

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.over = True

    on_sanity_check_start = on_validation_start = on_test_start = on_predict_start = on_train_start


_SHARED = ("rng", "graceful_stop", "divergence", "checkpoint")


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
        parser.add_lightning_class_args(DivergenceGuard, "divergence")
        parser.add_lightning_class_args(AtomicCheckpoint, "checkpoint")
        parser.add_argument(
            "--override",
            action="store_true",
            help="With --ckpt_path: take this command's settings where they differ from the checkpoint's.",
        )
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Run the test loop after `fit`.")
        parser.add_argument("--keep_heap", type=bool, default=False, help="Keep freed memory: faster on CPUs (glibc).")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; LightningCLI's warning about explicit arguments does not apply here."""
        self.config = parser.parse_args(args)

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"seed_everything: {error}") from error

    @property
    def root(self) -> Path:
        """The folder of this recipe's runs."""
        config = self.config[self.config.subcommand]
        return Path(config.trainer.default_root_dir or Path("runs") / (self.recipe or _class_name(config.model)))

    def _parse_ckpt_path(self) -> None:
        config = self.config[self.config.subcommand]
        which = config.get("ckpt_path")
        if which is None:
            return
        if which in ("last", "best"):
            checkpoint, self.run_dir = resolve_checkpoint(self.root, which)
            config.ckpt_path = str(checkpoint)
        elif not Path(which).exists():
            raise UserError(f"--ckpt_path {which}: no such file; allowed: last, best or the path of a checkpoint")
        content = read_checkpoint(Path(config.ckpt_path))
        if config.get("override"):
            config.checkpoint.override = True
        elif self.config.subcommand == "fit" and "settings" in content:
            self._keep_settings(content)
        else:
            self._take_hyperparameters(content)

    def _keep_settings(self, content: dict[str, Any]) -> None:
        """The settings of the checkpoint's run in the place of the command's; each difference is told."""
        self._dump_config()
        given, saved = self.config_dump, content["settings"]
        refuse_loss(content.get("indispensable", ()), given)
        differences = compare_settings(saved, given)
        for key, old, new in differences:
            print(f"note: {key} is {old!r} as in the checkpoint, not {new!r}", file=sys.stderr)
        if differences:
            print("note: --override takes the command's settings; the run then does not go on exactly", file=sys.stderr)
            self.config = self.parser.parse_object({"fit": merged_settings(saved, given)}, self.config)
        del self.config_dump  # it is of the settings before

    def _take_hyperparameters(self, content: dict[str, Any]) -> None:
        """The checkpoint's hyperparameters for the command's class: LightningCLI would take the class's place from it, too."""
        config = self.config[self.config.subcommand]
        kept = content.get("hyper_parameters", {})
        arguments = {name: value for name, value in kept.items() if not name.startswith("_")}
        if not arguments:
            return
        before = config.model.clone()
        model = {"class_path": config.model.class_path, "init_args": arguments}
        self.config = self.parser.parse_object({self.config.subcommand: {"model": model}}, self.config)
        for key, old, new in _changes(before, self.config[self.config.subcommand].model):
            print(f"note: model.{key} is {new!r} as in the checkpoint, not {old!r}", file=sys.stderr)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; a refused value becomes one message."""
        if self._get(self.config, "keep_heap"):
            print(keep_heap(), file=sys.stderr)
        try:
            super().instantiate_classes()
        except _EXPECTED as error:
            raise UserError(_told(error)) from error
        if getattr(self.datamodule or self.model, "in_memory", False):
            quieten_workers()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with the run folder, its logger and each shared callback once."""
        config = self._get(self.config_init, "trainer")
        listed = config.callbacks or []
        listed = listed if isinstance(listed, list) else [listed]
        shared = [self._get(self.config_init, key) for key in _SHARED]
        if config.enable_checkpointing is False:
            shared = shared[:-1]
        callbacks = [*listed, *(c for c in shared if not any(type(other) is type(c) for other in listed))]
        if (
            config.enable_progress_bar is not False
            and not config.barebones
            and not any(isinstance(c, ProgressBar) for c in listed)
        ):
            callbacks.append(PhaseProgressBar())
        if self.subcommand == "fit" and not config.fast_dev_run:
            self._open_run([c for c in callbacks if isinstance(c, AtomicCheckpoint)])
        if self.subcommand == "predict" and not any(isinstance(c, BasePredictionWriter) for c in listed):
            callbacks.append(PredictionFile(self.run_dir or self.root))
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
        except (RuntimeError, KeyError) as error:
            path = self.config[subcommand].get("ckpt_path")
            if self._setup_end.over or path is None:
                raise
            raise UserError(f"{path} does not fit the model: {_misfit(error)}") from error
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


def _misfit(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"it has no entry {error}; it may be of another model or of an older version of the package"
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[:3]) + (f" ... ({len(lines) - 3} more)" if len(lines) > 3 else "")


def _told(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
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
