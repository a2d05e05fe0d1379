"""What a newcomer meets: commands that run with their defaults, and a terminal without other people's noise."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch

from plasticity_lightning.cli import _COMMANDS, main
from plasticity_lightning.cli.quiet import quieten, quieten_workers

PHASE = (
    '[{"cues":[{"latencies_ms":[300],"outcomes":[0.8,0.2]},{"latencies_ms":[500],"outcomes":[0.5,0.5]},'
    '{"latencies_ms":[700],"outcomes":[0.2,0.8]}],"blocks":4}]'
)
MODEL, DATA = "--model.init_args", "--data.init_args"
SHORT = {
    "nalsm/quickstart": [f"{MODEL}.shape=[3,3,4]", f"{MODEL}.feature_steps=60", f"{MODEL}.readout=ridge"],
    "granet/quickstart": ["--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1"],
    "visual_control/quickstart": [
        "--trainer.max_epochs=1", "--trainer.val_check_interval=20", "--trainer.log_every_n_steps=5",
        *(f"{MODEL}.loop.{name}={n}" for name, n in
          {"ticks_per_epoch": 20, "random_steps": 8, "learning_starts": 12, "evaluation_episodes": 1}.items()),
        f"{MODEL}.channels=4", f"{MODEL}.hidden=16",
    ],
    "prediction_object/quickstart": [
        f"{MODEL}.lanes=1", f"{DATA}.lanes=1", f"{MODEL}.reservoir.n_neurons=50", f"{DATA}.lead_in_blocks=1",
        f"{DATA}.probe_every=2", f"{DATA}.phases={PHASE}",
    ],
}  # fmt: skip
# commands that take a recipe or a run
ALL = {
    "fit", "validate", "test", "predict", "diagnose", "coverage", "diagnose-liquid", "pruning-plasticity", "compare",
    "prediction-rules", "export",
}  # fmt: skip
# a command that does not fit a family says so in one sentence, with these words
REFUSED = {
    ("nalsm", "diagnose"): "`plasticity diagnose-liquid` measures it",
    ("granet", "diagnose-liquid"): "has no liquid",
    ("visual_control", "diagnose-liquid"): "has no liquid",
    ("prediction_object", "diagnose-liquid"): "has no liquid",
    ("prediction_object", "diagnose"): "no measure finds anything here",
    ("nalsm", "pruning-plasticity"): "no weight is left to mask",
    ("prediction_object", "pruning-plasticity"): "no weight is left to mask",
    ("nalsm", "export"): "there is no network to export",
    ("prediction_object", "export"): "there is no network to export",
    ("visual_control", "export"): "actor, critic, encoder, target_critic: say by --network which part to export",
    ("visual_control", "pruning-plasticity"): "'val/accuracy' is not logged; logged: eval/episode_steps, eval/return",
    **{
        (family, "prediction-rules"): "no record of the prediction task"
        for family in ("nalsm", "granet", "visual_control")
    },
}
# what a command must show of a family
SHOWN = {
    ("nalsm", "diagnose-liquid"): "note: ranks over",  # fewer than the paper's 100 of a class
    ("visual_control", "validate"): "eval/return",
    ("prediction_object", "validate"): "val/timing_error_ms",
    ("prediction_object", "coverage"): "gate cue_to_outcome",
    ("visual_control", "coverage"): "critic.q1.act_1",
    ("granet", "pruning-plasticity"): "plasticity.png",
}


@pytest.fixture(scope="module", params=SHORT)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a quickstart that has been trained."""
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--config", request.param, *SHORT[request.param], f"--trainer.default_root_dir={folder}"]
    assert main(["fit", *arguments, "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]) == 0
    return arguments


def arguments_of(command: str, run: list[str]) -> list[str]:
    folder = Path(run[-1].partition("=")[2])
    if command == "coverage":
        return ["diagnose", "--coverage", *run]
    if command in ("compare", "prediction-rules"):
        return [command, str(folder / "version_0")]
    study = ["--epochs=1", "--prune_rates=[0.5]"] if command == "pruning-plasticity" else []
    if command == "export":
        study = ["--format=dense", "--seconds=0", f"--output={folder / 'network.pt'}"]
    return [command, *run, "--ckpt_path", "last", *study]


@pytest.mark.parametrize("command", sorted(ALL))
def test_every_command_runs_on_every_quickstart_with_its_defaults(
    command: str, run: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    family = run[1].partition("/")[0]
    refused = REFUSED.get((family, command))
    status = main(arguments_of(command, run))
    told = capsys.readouterr()
    assert status == (2 if refused else 0), told.err
    errors = [line for line in told.err.splitlines() if line.startswith("plasticity: error:")]
    assert len(errors) == bool(refused)
    assert (refused or "") in told.err
    assert "Traceback" not in told.err
    assert SHOWN.get((family, command), "") in told.out + told.err
    if command == "predict":
        (path,) = Path(run[-1].partition("=")[2]).glob("version_0/predictions.pt")
        assert f"predictions: {path}" in told.out
        assert len(torch.load(path, weights_only=True)) > 0


def test_these_are_all_commands_and_each_has_a_help(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert set(_COMMANDS) == ALL - {"coverage"} | {"recipes"}
    for command, what in _COMMANDS.items():
        assert what in listed
        assert main([command, "--help"]) == 0
        told = capsys.readouterr()
        assert "usage:" in told.out
        assert not told.err


def test_noise_is_dropped_and_warnings_are_kept() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quieten()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use ...", stacklevel=1)
        warnings.warn(
            "\n      skip_none parameter was deprecated in v4.49.0 and will be removed in v5.0.0.", stacklevel=1
        )
        kept = [
            "the loss is not finite",
            # a user can act on these
            "The number of training batches (5) is smaller than the logging interval Trainer(log_every_n_steps=50).",
            "GPU available but not used. You can set it by doing `Trainer(accelerator='gpu')`.",
            "The 'train_dataloader' does not have many workers which may be a bottleneck.",
        ]
        for text in kept:
            warnings.warn(text, stacklevel=1)
        quieten_workers()  # of data in memory
        warnings.warn(kept[-1], stacklevel=1)
    assert [str(w.message) for w in seen] == kept
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    records = [logging.LogRecord("x", logging.INFO, "", 0, text, (), None)
               for text in ("\U0001f4a1 Tip: install it", "TPU available: False, using: 0 TPU cores", "`Trainer.fit` stopped")]  # fmt: skip
    assert [bool(logger.filter(record)) for record in records] == [False, False, True]
