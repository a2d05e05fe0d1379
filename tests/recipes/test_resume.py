"""Every recipe goes on exactly from wherever it was killed or stopped. One small recipe of each paper by default, all marked slow.

The slow form leaves out the tasks of visual control, which differ by numbers only, and overlays that bring neither a callback nor
another module. It kills each recipe after every fifth save or so, recipes beginning at different ones, the small ones after each;
and it stops the small ones at every n-th hook.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasticity_lightning.cli.app import PlasticityCLI
from plasticity_lightning.cli.recipes import list_recipes, resolve_arguments
from tests.recipes import test_granet, test_nalsm, test_plasticity_bench, test_prediction_object, test_visual_control
from tests.recipes.test_granet import root as granet_root  # noqa: F401 - fixtures
from tests.recipes.test_nalsm import root as nalsm_root  # noqa: F401
from tests.runtime.interruption import Case, differences, resumed_everywhere, stopped_everywhere

_KEPT = ("max_epochs", "max_steps", "log_every_n_steps", "check_val_every_n_epoch", "val_check_interval", "limit_train_batches",
         "limit_val_batches", "num_sanity_val_steps", "accumulate_grad_batches", "gradient_clip_val", "max_time")  # fmt: skip
# name, with overlays behind plus signs, -> kills by default after each n-th save
QUICK = {
    "nalsm/quickstart": 8,
    "granet/quickstart": 3,
    "plasticity_bench/random_label_mnist": 3,
    "prediction_object/subspaces": 8,
    "visual_control/quickstart": 11,
}
_BASES = {
    "visual_control": "visual_control/quickstart",
    "plasticity_bench": "plasticity_bench/random_label_mnist",
    "granet": "granet/quickstart",
    "prediction_object": "prediction_object/standard",
    "nalsm": "nalsm/quickstart",
}
_PLAIN = (
    "sparsity_",
    "rr_",
    "augmentation",
    "weight_decay",
    "adaptive_atari",
    "/exp",
    "gate_",
    "no_",
    "homogeneous",
    "noise_free",
)
RECIPES = [name for name in list_recipes() if "overlays" not in name and "/tasks/" not in name]
OVERLAYS = [
    f"{'plasticity_bench/warm_start' if name.endswith('cold_start') else _BASES[name.split('/')[0]]}+{name}"
    for name in list_recipes()
    if "/overlays/" in name and not any(part in name for part in _PLAIN)
]


class _Built(PlasticityCLI):
    """Builds everything and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def _open_run(self, savers: Any) -> None:
        pass


@pytest.fixture
def roots(granet_root: Path, nalsm_root: Path) -> dict[str, Path]:  # noqa: F811
    return {"granet": granet_root, "nalsm": nalsm_root}


def arguments(name: str, roots: dict[str, Path]) -> list[str]:
    """What makes a recipe tiny, and what makes its callbacks act in so short a run."""
    base = name.split("+")[0]
    family, short = base.split("/")
    if family == "nalsm":
        # every state is kept in memory: not those of the 5000 epochs of the published readout
        few = ["--model.init_args.readout_arguments={epochs: 20, batch_size: 10}"] if "original" in name else []
        return [*test_nalsm.overrides(base, roots["nalsm"]), "--trainer.log_every_n_steps=1", *few]
    if family == "granet":
        return [*test_granet.overrides(base, roots["granet"]), "--data.init_args.batch_size=16"]
    if base == "prediction_object/nicola_clopath":
        return [*test_prediction_object.TINY_GENERATOR, "--trainer.log_every_n_steps=2"]
    if family == "prediction_object":
        short_probes = ["--data.init_args.probe_every=2", "--trainer.log_every_n_steps=3"]
        return [*test_prediction_object.TINY, *short_probes]
    if family == "visual_control":
        return visual_control(base, with_callbacks="+" not in name)
    tiny = [*test_plasticity_bench.TINY[short], "--trainer.max_epochs=4", "--data.init_args.epochs_per_task=2"]
    measures = "[fau,dormant,srank,weight_norm,distance_from_init,update_ratio,grad_norm]"
    monitor = f"[{{class_path: PlasticityMonitor, init_args: {{every: 3, measures: {measures}}}}}]"
    return [*tiny, "--trainer.log_every_n_steps=2", *([] if "+" in name else [f"--trainer.callbacks={monitor}"])]


def visual_control(name: str, with_callbacks: bool) -> list[str]:
    options: dict[str, Any] = {**test_visual_control.TINY, "loop.ticks_per_epoch": 14, "loop.random_steps": 6}
    options |= {"loop.learning_starts": 6, "replay.capacity": 20}  # the oldest frames are overwritten
    options |= test_visual_control.TINY_ATARI if name.endswith("atari100k") else test_visual_control.REACH
    trainer = ["--trainer.max_epochs=2", "--trainer.val_check_interval=9", "--trainer.log_every_n_steps=4"]
    trainer += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    critic = "critic.q?.*" if "atari" not in name else "value.*"
    callbacks = f"""[
        {{class_path: StopAfter, init_args: {{steps: 24}}}},
        {{class_path: PlasticityMonitor, init_args: {{measures: [fau, dormant, grad_norm], every: 1, groups: {{critic: "critic.*"}}}}}},
        {{class_path: AdaptiveReplayRatio, init_args: {{monitor: plasticity/dormant/critic, check_every: 5, unit: step, ladder: [0.5, 1, 2],
            raise_when: change <= 9}}}},
        {{class_path: PruneRegrowScheduler, init_args: {{method: rigl, sparsity: 0.5, every: 4, total_steps: 40, include: [critic.*.weight]}}}},
        {{class_path: ReDo, init_args: {{tau: 0.5, every: 5, modules: ["{critic}"]}}}},
        {{class_path: Reset, init_args: {{last: 1, every: 7, modules: ["{critic}"]}}}},
        {{class_path: EvaluationVideo, init_args: {{every: 2, size: 16}}}}]"""
    if with_callbacks and "atari" not in name:
        trainer.append(f"--trainer.callbacks={' '.join(callbacks.split())}")
    return [*(f"--model.init_args.{key}={value}" for key, value in options.items()), *trainer]


def recipe(name: str, roots: dict[str, Path]) -> Case:
    configs = [part for config in name.split("+") for part in ("--config", config)]
    args, _ = resolve_arguments(["fit", *configs, *arguments(name, roots)])
    built: list[PlasticityCLI] = []

    def module() -> Any:
        built[:] = [_Built(args)]
        return built[0].model

    module()
    trainer = {
        key: built[0].config["fit"].trainer[key] for key in _KEPT if built[0].config["fit"].trainer[key] is not None
    }
    own = ["RNGState", "GracefulStop", "AtomicCheckpoint", "RunConfig", "_SetupEnd", "ModelSummary", "ModelCheckpoint"]
    if name not in QUICK:
        own.append("PredictionMonitor")  # it has no state, and draws for seconds at the end

    def callbacks() -> list:
        return [
            c for c in built[0].trainer.callbacks if type(c).__name__ not in own and "Progress" not in type(c).__name__
        ]

    return Case(module, lambda: built[0].datamodule, callbacks, trainer)


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_recipe_goes_on_exactly(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    for where, whole, run in resumed_everywhere(recipe(name, roots), tmp_path, every=QUICK[name]):
        assert differences(whole, run) == [], where


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [*RECIPES, *OVERLAYS])
def test_a_recipe_killed_after_any_save_goes_on_exactly(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    every = 1 if name in QUICK else 5
    start = [*RECIPES, *OVERLAYS].index(name) % every
    for where, whole, run in resumed_everywhere(recipe(name, roots), tmp_path, every, start):
        assert differences(whole, run) == [], where


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("by", "every"), [("exception", 9), ("signal", 19), ("term", 49)])
@pytest.mark.parametrize("name", QUICK)
def test_a_recipe_stopped_at_any_hook_goes_on_exactly(
    name: str, by: str, every: int, roots: dict[str, Path], tmp_path: Path
) -> None:
    start = 0 if by == "exception" else 1  # at the first hook of all GracefulStop does not listen yet
    for where, whole, run in stopped_everywhere(recipe(name, roots), tmp_path, by, every, start):
        assert differences(whole, run) == [], where
