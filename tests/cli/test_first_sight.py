"""What a newcomer meets: commands that run with their defaults, and a terminal without other people's noise."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from plasticity_lightning.cli import main
from plasticity_lightning.cli.quiet import quieten

SHORT = {
    "nalsm/quickstart": [
        "--model.init_args.shape=[3,3,4]",
        "--model.init_args.feature_steps=60",
        "--model.init_args.readout=ridge",
    ],
    "granet/quickstart": ["--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1"],
}


@pytest.fixture(scope="module", params=SHORT)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a quickstart that has been trained."""
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--config", request.param, *SHORT[request.param], f"--trainer.default_root_dir={folder}"]
    assert main(["fit", *arguments, "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]) == 0
    return arguments


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "diagnose", "diagnose-liquid"])
def test_every_command_runs_on_every_quickstart_with_its_defaults(
    command: str, run: list[str], capsys: pytest.CaptureFixture
) -> None:
    has_liquid = "nalsm/quickstart" in run
    # each kind of network has the diagnosis that fits it; the other one says which
    other = {"diagnose": has_liquid, "diagnose-liquid": not has_liquid}.get(command, False)
    status = main([command, *run, "--ckpt_path", "last"])
    told = capsys.readouterr()
    assert status == (2 if other else 0), told.err
    if other:
        assert "measures" in told.err
    elif command == "diagnose-liquid":
        assert "note: ranks over" in told.err  # fewer than the paper's 100 of a class


def test_compare_runs_on_a_quickstart(run: list[str], capsys: pytest.CaptureFixture) -> None:
    folder = Path(run[-1].partition("=")[2])
    assert main(["compare", str(folder / "version_0")]) == 0


def test_noise_is_dropped_and_warnings_are_kept() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quieten()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use ...", stacklevel=1)
        warnings.warn(
            "\n      skip_none parameter was deprecated in v4.49.0 and will be removed in v5.0.0.", stacklevel=1
        )
        warnings.warn("the loss is not finite", stacklevel=1)
    assert [str(w.message) for w in seen] == ["the loss is not finite"]
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    records = [logging.LogRecord("x", logging.INFO, "", 0, text, (), None)
               for text in ("\U0001f4a1 Tip: install it", "TPU available: False, using: 0 TPU cores", "`Trainer.fit` stopped")]  # fmt: skip
    assert [bool(logger.filter(record)) for record in records] == [False, False, True]
