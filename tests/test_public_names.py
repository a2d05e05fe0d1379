"""Every public name is tested where a reader would look for it: in a file that mirrors its module, or in one that names it.

A part that only its users' tests exercise stands in `TESTED_THROUGH`, with the test that does; the list says which names have no test of their own.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "plasticity_lightning", ROOT / "tests"
TESTED_THROUGH = {
    "callbacks/interventions/anchored.py": "callbacks/interventions/test_l2_init.py",
    "callbacks/interventions/unit_replacement.py": "callbacks/interventions/test_redo.py",
    "callbacks/monitoring/activations.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/monitoring/cadence.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/monitoring/call_frames.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/monitoring/functional.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/monitoring/layers.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/monitoring/parameters.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/monitoring/probe.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/monitoring/publish.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/monitoring/spikes.py": "callbacks/monitoring/test_plasticity_monitor.py",
    "callbacks/prediction/prediction_monitor.py": "modules/test_prediction_object.py",
    "callbacks/sparse_training/acting_watch.py": "callbacks/sparse_training/test_prune_regrow.py",
    "callbacks/sparse_training/groups.py": "callbacks/sparse_training/test_prune_regrow.py",
    "callbacks/sparse_training/mask_keeper.py": "callbacks/sparse_training/test_one_shot_pruning.py",
    "callbacks/sparse_training/report.py": "callbacks/sparse_training/test_prune_regrow.py",
    "callbacks/sparse_training/sync.py": "callbacks/sparse_training/test_prune_regrow.py",
    "cli/app.py": "cli/test_command.py",
    "cli/errors.py": "cli/test_command.py",
    "cli/prediction_rules.py": "recipes/test_prediction_object.py",
    "cli/recipes.py": "cli/test_command.py",
    "cli/runs.py": "cli/test_command.py",
    "control/environments/contract.py": "control/environments/test_atari.py",
    "control/environments/exports.py": "control/environments/test_gymnasium.py",
    "control/environments/frame_stack.py": "control/replay/test_replay.py",
    "control/environments/group.py": "control/environments/test_collector.py",
    "control/environments/gymnasium_environment.py": "control/environments/test_collector.py",
    "control/environments/headless.py": "control/environments/test_dm_control_suite.py",
    "control/environments/packing.py": "control/environments/test_atari.py",
    "control/environments/processes.py": "control/environments/test_collector.py",
    "control/environments/registry.py": "control/environments/test_collector.py",
    "control/environments/steps.py": "control/environments/test_collector.py",
    "control/replay/_kernel.py": "control/replay/test_replay.py",
    "control/replay/draw.py": "control/replay/test_replay.py",
    "control/replay/limits.py": "control/replay/test_replay.py",
    "control/replay/pixels.py": "control/replay/test_replay.py",
    "control/replay/ring.py": "control/replay/test_replay.py",
    "control/replay/ring_log.py": "control/replay/test_log.py",
    "data/catalogue.py": "data/images/test_datasets.py",
    "data/events/emulated_events.py": "data/events/test_event_camera.py",
    "data/events/event_datamodule.py": "data/events/test_nmnist.py",
    "data/events/nmnist_format.py": "data/events/test_nmnist.py",
    "data/images/image_datamodule.py": "data/images/test_datasets.py",
    "errors.py": "cli/test_command.py",
    "interventions/unit_functions.py": "interventions/test_unit_graph.py",
    "interventions/unit_moves.py": "interventions/test_unit_graph.py",
    "measures/prediction_record.py": "modules/test_prediction_object.py",
    "measures/selectivity.py": "measures/test_prediction.py",
    "measures/subspaces.py": "measures/test_prediction.py",
    "measures/units.py": "measures/test_activity.py",
    "modules/continual_learner.py": "modules/test_continual.py",
    "modules/control_loop.py": "modules/test_discrete_control.py",
    "modules/control_evaluation.py": "modules/test_visual_control.py",
    "modules/control_options.py": "modules/test_visual_control.py",
    "modules/feature_readout.py": "modules/test_nalsm.py",
    "modules/lane_exchange.py": "modules/test_prediction_object.py",
    "modules/replay_folder.py": "modules/test_control_resume.py",
    "protocols.py": "callbacks/liquid/test_astrocyte_feedback.py",
    "readouts/_trial_kernel.py": "readouts/test_trial.py",
    "readouts/consolidation.py": "readouts/test_trial.py",
    "readouts/eligibility.py": "readouts/test_trial.py",
    "readouts/lbfgs.py": "readouts/test_solvers.py",
    "readouts/learner.py": "readouts/test_learners.py",
    "readouts/lms.py": "readouts/test_local_rules.py",
    "readouts/loss.py": "readouts/test_solvers.py",
    "readouts/modulation.py": "readouts/test_local_rules.py",
    "readouts/online_learners.py": "readouts/test_learners.py",
    "readouts/ridge.py": "readouts/test_solvers.py",
    "readouts/rls.py": "readouts/test_local_rules.py",
    "readouts/solver.py": "readouts/test_solvers.py",
    "readouts/supervised_learners.py": "readouts/test_learners.py",
    "readouts/three_factor.py": "readouts/test_local_rules.py",
    "runtime/atomic_file.py": "runtime/test_runtime.py",
    "runtime/checkpoint_file.py": "runtime/test_runtime.py",
    "runtime/clock.py": "runtime/test_runtime.py",
    "runtime/exact_loops.py": "recipes/test_resume.py",
    "runtime/lightning_classes.py": "callbacks/interventions/test_plasticity_injection.py",
    "runtime/override.py": "runtime/test_exact_resume.py",
    "runtime/unfinished.py": "recipes/test_resume.py",
    "sparsity/condensed/_cpu_kernel.py": "sparsity/condensed/test_function.py",
    "sparsity/condensed/contract.py": "sparsity/condensed/test_function.py",
    "sparsity/condensed/gpu.py": "sparsity/condensed/triton_cases.py",
    "sparsity/condensed/reference.py": "sparsity/condensed/test_function.py",
    "sparsity/layer.py": "callbacks/sparse_training/test_one_shot_pruning.py",
    "sparsity/plan.py": "callbacks/sparse_training/test_prune_regrow.py",
    "spiking/_splitmix_kernel.py": "spiking/test_encoding.py",
    "spiking/_triton_kernels.py": "spiking/test_fused.py",
    "spiking/backends.py": "spiking/test_neurons.py",
    "spiking/devices.py": "spiking/reservoir/test_gpu.py",
    "spiking/liquid/auto.py": "spiking/liquid/test_engines.py",
    "spiking/liquid/contract.py": "spiking/liquid/test_engines.py",
    "spiking/reservoir/_buffers.py": "spiking/reservoir/test_engines.py",
    "spiking/reservoir/_cpu_kernel.py": "spiking/reservoir/test_engines.py",
    "spiking/reservoir/contract.py": "spiking/reservoir/test_engines.py",
    "spiking/reservoir/noise.py": "spiking/reservoir/test_engines.py",
    "spiking/reservoir/reference.py": "spiking/reservoir/test_engines.py",
    "spiking/splitmix.py": "spiking/test_encoding.py",
    "spiking/threads.py": "spiking/liquid/test_engines.py",
    "studies/prediction_rules.py": "recipes/test_prediction_object.py",
    "viz/plasticity.py": "callbacks/monitoring/test_plasticity_monitor.py",
}
MODULES = sorted(
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py", "_version.py")
)


def public_names(source: str) -> list[str]:
    """What a module's `__all__` lists."""
    for node in ast.parse(source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[union-attr,arg-type]
    return []


def mirror(module: str) -> Path:
    """Where the tests of a module are looked for first."""
    path = Path(module)
    return TESTS / path.parent / f"test_{path.stem.lstrip('_')}.py"


@pytest.fixture(scope="module")
def named() -> set[str]:
    """Every word of the test files but this one."""
    texts = (path.read_text() for path in TESTS.rglob("*.py") if path != Path(__file__))
    return {word for text in texts for word in re.findall(r"[A-Za-z_]\w*", text)}


def untested(module: str, named: set[str]) -> list[str]:
    """Public names of a module that no test file mirrors or names."""
    if mirror(module).is_file():
        return []
    return [name for name in public_names((PACKAGE / module).read_text()) if name not in named]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_a_test_or_a_test_that_reaches_them(module: str, named: set[str]) -> None:
    names = untested(module, named)
    if module in TESTED_THROUGH:
        assert (TESTS / TESTED_THROUGH[module]).is_file()
    else:
        assert not names, f"no test names these of {module}; add {mirror(module).relative_to(ROOT)}"


def test_the_list_names_modules_that_exist() -> None:
    assert set(TESTED_THROUGH) <= set(MODULES)


def test_how_names_and_mirrors_are_read() -> None:
    assert public_names('"""d"""\n__all__: list[str] = ["a", "b"]\n') == ["a", "b"]
    assert public_names("x = 1") == []
    assert mirror("spiking/liquid/_cpu_kernel.py") == TESTS / "spiking/liquid/test_cpu_kernel.py"
    assert untested("spiking/liquid/_cpu_kernel.py", set()) == []
    assert untested("errors.py", {"UserError"}) == ["nearest"]
