"""Every recipe goes on exactly from wherever it was killed or stopped. One small recipe of each paper by default, all marked slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasticity_lightning.cli.app import PlasticityCLI
from plasticity_lightning.cli.recipes import list_recipes, resolve_arguments
from tests.recipes import test_granet, test_nalsm, test_plasticity_bench
from tests.recipes.test_granet import root  # noqa: F401 - a fixture
from tests.runtime.interruption import Case, differences, resumed_everywhere, stopped_everywhere

_KEPT = ("max_epochs", "max_steps", "log_every_n_steps", "check_val_every_n_epoch", "val_check_interval", "limit_val_batches",
         "num_sanity_val_steps", "accumulate_grad_batches", "gradient_clip_val", "max_time")  # fmt: skip
QUICK = {"nalsm/quickstart": 8, "granet/quickstart": 3, "plasticity_bench/random_label_mnist": 3}
RECIPES = [name for name in list_recipes() if "overlays" not in name]


class _Built(PlasticityCLI):
    """Builds everything and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def _open_run(self, savers: Any) -> None:
        pass


def arguments(name: str, root: Path) -> list[str]:  # noqa: F811
    family, short = name.split("/")
    if family == "nalsm":
        return [*test_nalsm.overrides(name, root), "--trainer.log_every_n_steps=1"]
    if family == "granet":
        return [*test_granet.overrides(name, root), "--data.init_args.batch_size=16"]
    tiny = [*test_plasticity_bench.TINY[short], "--trainer.max_epochs=4", "--data.init_args.epochs_per_task=2"]
    measures = "[fau,dormant,srank,weight_norm,distance_from_init,update_ratio,grad_norm]"
    monitor = f"[{{class_path: PlasticityMonitor, init_args: {{every: 3, measures: {measures}}}}}]"
    return [*tiny, "--trainer.log_every_n_steps=2", f"--trainer.callbacks={monitor}"]


def recipe(name: str, root: Path) -> Case:  # noqa: F811
    args, _ = resolve_arguments(["fit", "--config", name, *arguments(name, root)])
    built: list[PlasticityCLI] = []

    def module() -> Any:
        built[:] = [_Built(args)]
        return built[0].model

    module()
    trainer = {
        key: built[0].config["fit"].trainer[key] for key in _KEPT if built[0].config["fit"].trainer[key] is not None
    }
    own = ("RNGState", "GracefulStop", "AtomicCheckpoint", "RunConfig", "_SetupEnd", "ModelSummary", "ModelCheckpoint")

    def callbacks() -> list:
        return [
            c for c in built[0].trainer.callbacks if type(c).__name__ not in own and "Progress" not in type(c).__name__
        ]

    return Case(module, lambda: built[0].datamodule, callbacks, trainer)


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_recipe_goes_on_exactly(name: str, root: Path, tmp_path: Path) -> None:  # noqa: F811
    for where, whole, run in resumed_everywhere(recipe(name, root), tmp_path, every=QUICK[name]):
        assert differences(whole, run) == [], where


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_killed_after_any_save_goes_on_exactly(name: str, root: Path, tmp_path: Path) -> None:  # noqa: F811
    for where, whole, run in resumed_everywhere(recipe(name, root), tmp_path):
        assert differences(whole, run) == [], where


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("by", ["exception", "signal", "term"])
@pytest.mark.parametrize("name", QUICK)
def test_a_recipe_stopped_at_any_hook_goes_on_exactly(name: str, by: str, root: Path, tmp_path: Path) -> None:  # noqa: F811
    for where, whole, run in stopped_everywhere(recipe(name, root), tmp_path, by):
        assert differences(whole, run) == [], where
