"""Rules on the prediction task side by side, from the checkpoints of finished runs: one table and one figure over all of them.

A checkpoint of `PredictionObject` holds its record and the truth of its data, so nothing is simulated here. Lanes are the replicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

import plasticity_lightning.modules  # noqa: F401 - registers the options that its checkpoints hold
from plasticity_lightning.errors import UserError
from plasticity_lightning.measures.prediction_record import PredictionRecord, adaptation_curves, scores
from plasticity_lightning.runtime.checkpoint_file import read_checkpoint

__all__ = ["COLUMNS", "RuleRun", "curves_by_change", "read_rule_run"]

COLUMNS = {
    "timing_error_ms": "timing error (ms)",
    "r": "r",
    "r_worst": "worst r",
    "slope": "slope",
    "off_time": "off time",
    "trials_to_timing": "to timing",
    "trials_to_probability": "to probability",
}


class RuleRun(NamedTuple):
    """A finished run: its scores, float64 [L] each, its curves after every change, and its number of lanes."""

    scores: dict[str, Tensor]
    curves: list[dict[str, Any]]
    n_lanes: int


def read_rule_run(folder: Path) -> RuleRun:
    """The newest `last.ckpt` at or below a folder.

    Raises:
        UserError: if there is none, or it holds no record of the prediction task.
    """
    found = sorted(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{folder}: no last.ckpt in it or below; give folders of finished runs, as LABEL=FOLDER")
    kept = read_checkpoint(found[-1]).get("prediction_object")
    if kept is None or kept["truth"] is None or not kept["record"]["trials"]:
        raise UserError(f"{found[-1]}: holds no record of the prediction task with its truth")
    shape = kept["record"]["trials"]["share"].shape
    record = PredictionRecord(shape[1], shape[3], kept["product"])
    record.load_state_dict(kept["record"])
    return RuleRun(scores(record, kept["truth"]), adaptation_curves(record, kept["truth"]), shape[1])


def curves_by_change(runs: Mapping[str, RuleRun]) -> dict[str, tuple[str, float, dict[str, Tensor]]]:
    """Panels for `viz.adaptation_curves`: one a change that any of the runs has seen, with the curves of all rules that have seen it."""
    panels: dict[str, tuple[str, float, dict[str, Tensor]]] = {}
    for label, run in runs.items():
        for entry in (entry for entry in run.curves if entry["curve"].numel()):
            title = f"{entry['kind']}, phase {entry['phase']}, cue {entry['cue']}"
            name = "|timing error| (ms)" if entry["kind"] == "timing" else "share of the outcome"
            panels.setdefault(title, (name, entry["target"], {}))[2][label] = entry["curve"]
    return panels
