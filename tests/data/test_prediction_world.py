"""What cues announce, as scores read it, and protocols that do not hang together."""

from __future__ import annotations

import pytest

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.prediction_world import STANDARD, Cue, Phase, check_phases, truth_of


def test_truth_is_filled_up_behind_a_cues_last_latency() -> None:
    truth = truth_of([Cue([200.0], [0.8, 0.2], event=0.5), Cue([300.0, 600.0], [0.0, 1.0])], 2)
    assert truth["latencies_ms"].nan_to_num(-1).tolist() == [[200, -1], [300, 600]]
    assert truth["latency_probability"].tolist() == [[1, 0], [0.5, 0.5]]
    assert truth["outcome_probability"].flatten().tolist() == pytest.approx([0.8, 0.2, 0.0, 1.0])
    assert truth["event_probability"].tolist() == [0.5, 1.0]


def test_the_standard_protocol_moves_one_cue_in_time_and_then_in_probability() -> None:
    check_phases(STANDARD, 1000, 10)
    first = [phase.cues[0] for phase in STANDARD]
    assert [cue.latencies_ms for cue in first] == [[300.0], [600.0], [600.0]]
    assert [cue.outcomes for cue in first] == [[0.8, 0.2], [0.8, 0.2], [0.2, 0.8]]


@pytest.mark.parametrize(
    ("phases", "named"),
    [
        ([], "at least one phase"),
        ([Phase([Cue([200.0], [1.0])]), Phase([Cue([200.0], [0.5, 0.5])])], "phase 1 differs"),
        ([Phase([Cue([1000.0], [1.0])])], "below window_ms=1000"),
        ([Phase([Cue([200.0], [0.85, 0.15])])], "urn=10"),
        ([Phase([Cue([200.0], [1.0], channels=[1])])], "channels 0 to 0"),
    ],
)
def test_a_protocol_that_does_not_hang_together_is_refused(phases: list[Phase], named: str) -> None:
    with pytest.raises(DataArgumentError, match=named):
        check_phases(phases, 1000, 10)
