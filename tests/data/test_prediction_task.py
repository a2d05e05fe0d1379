"""The prediction task.

Exact urns, probes, what each control changes, trials as a function of (seed, lane, k), resume, bad input.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_lightning.data.errors import DataArgumentError
from plasticity_lightning.data.prediction_task import PredictionTaskDataModule, lanes_of_rank
from plasticity_lightning.data.prediction_world import Cue, Phase


def test_standard_protocol_has_630_trials_after_the_lead_in():
    task = PredictionTaskDataModule()
    assert task.n_trials == 21 + 630
    phases = Counter(task.trial(k)["phase"] for k in range(task.n_trials))
    assert phases == {-1: 21, 0: 210, 1: 210, 2: 210}
    probes = Counter((t["phase"], int(t["cue"])) for t in map(task.trial, range(task.n_trials)) if bool(t["probe"]))
    assert set(probes.values()) == {10}


def test_every_mini_block_shows_every_cue_once():
    task = PredictionTaskDataModule()
    for block in range(0, task.n_trials, 3):
        assert sorted(int(task.trial(block + i)["cue"]) for i in range(3)) == [0, 1, 2]


def test_an_urn_holds_every_event_in_exact_proportion():
    task = PredictionTaskDataModule(seed=4)
    drawn = {cue: [] for cue in range(3)}
    for k in range(21, 21 + 210):
        trial = task.trial(k)
        if not bool(trial["probe"]):
            drawn[int(trial["cue"])].append(int(trial["outcome"]))
    for cue, p in enumerate((0.8, 0.5, 0.2)):
        for start in range(0, 60, 10):  # each urn of ten
            assert drawn[cue][start : start + 10].count(0) == round(10 * p)


@given(p=st.sampled_from([0.0, 0.3, 1.0]), event=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=9, deadline=None)
def test_independent_draws_follow_the_probabilities_also_0_and_1(p, event):
    phase = Phase([Cue([200.0], [p, 1 - p], event=event)], blocks=400)
    task = PredictionTaskDataModule([phase], urn=0, probe_every=0, lead_in_blocks=0)
    outcomes = [int(task.trial(k)["outcome"]) for k in range(400)]
    came = [o for o in outcomes if o >= 0]
    assert len(came) / 400 == pytest.approx(event, abs=0.08)
    if came:
        assert came.count(0) / len(came) == pytest.approx(p, abs=0.1)


def test_several_latencies_and_outcomes_a_cue():
    cue = Cue([300.0, 600.0], [0.5, 0.5], latency_weights=[0.8, 0.2])
    task = PredictionTaskDataModule([Phase([cue], blocks=20)], probe_every=0, lead_in_blocks=0)
    seen = Counter((int(t["outcome"]), float(t["onset_ms"])) for t in map(task.trial, range(20)))
    assert seen == {(0, 300.0): 8, (1, 300.0): 8, (0, 600.0): 2, (1, 600.0): 2}
    three = PredictionTaskDataModule(
        [Phase([Cue([300.0], [0.5, 0.3, 0.2])], blocks=10)], probe_every=0, lead_in_blocks=0
    )
    assert Counter(int(three.trial(k)["outcome"]) for k in range(10)) == {0: 5, 1: 3, 2: 2}
    assert three.n_channels == 4


def test_stimuli_of_a_trial():
    task = PredictionTaskDataModule(lanes=2)
    trial = next(t for t in map(task.trial, range(30)) if int(t["outcome"][1]) >= 0)
    mine = trial["stimuli"][trial["stimuli"][:, 0] == 1]
    cue, outcome, onset = int(trial["cue"][1]), int(trial["outcome"][1]), float(trial["onset_ms"][1])
    assert mine.tolist() == [[1, cue, 100, 150, 1], [1, 3 + outcome, 100 + onset, 150 + onset, 1]]
    low, high = 1300 + 300, 1300 + 700
    assert all(low <= int(d) <= high and int(d) % 5 == 0 for d in trial["duration_ms"])


def test_a_probe_shows_the_cue_alone():
    task = PredictionTaskDataModule()
    probe = next(t for t in map(task.trial, range(task.n_trials)) if bool(t["probe"]))
    assert int(probe["outcome"]) == float(probe["onset_ms"]) == -1
    assert len(probe["stimuli"]) == 1


def test_a_compound_of_two_cues_is_never_learned():
    cues = [
        Cue([400.0], [1.0, 0.0]),
        Cue([400.0], [0.0, 1.0]),
        Cue([400.0], [0.5, 0.5], channels=[0, 1], learned=False),
    ]
    task = PredictionTaskDataModule([Phase(cues, blocks=12)])
    compounds = [t for t in map(task.trial, range(21, task.n_trials)) if int(t["cue"]) == 2]
    assert all(bool(t["probe"]) and t["stimuli"][:, 1].tolist() == [0, 1] for t in compounds)


def test_noise_options_change_what_they_name_and_nothing_else():
    base = PredictionTaskDataModule(seed=3)
    noisy = PredictionTaskDataModule(
        seed=3, latency_jitter_ms=40.0, level_noise=0.3, distractors=2.0, distractor_channels=2
    )
    assert noisy.n_channels == 7
    shifts, levels, extra = [], [], 0
    for k in range(60):
        a, b = base.trial(k), noisy.trial(k)
        assert torch.equal(a["cue"], b["cue"])
        assert torch.equal(a["outcome"], b["outcome"])
        if int(a["outcome"]) >= 0:
            shifts.append(float(b["onset_ms"] - a["onset_ms"]))
        levels.append(float(b["stimuli"][0, 4]))
        extra += int((b["stimuli"][:, 1] >= 5).sum())
    assert 20 < torch.tensor(shifts).std() < 60
    assert 0.15 < torch.tensor(levels).std() < 0.45
    assert 60 < extra < 180  # two a trial on average
    quiet = PredictionTaskDataModule(outcome_level=0.0)
    assert all(int(row[1]) < 3 for k in range(30) for row in quiet.trial(k)["stimuli"].tolist())


def test_a_trial_depends_on_seed_lane_and_number_alone():
    task, again = PredictionTaskDataModule(lanes=3, seed=7), PredictionTaskDataModule(lanes=3, seed=7)
    late = task.trial(500)
    assert all(torch.equal(late[name], again.trial(500)[name]) for name in ("cue", "outcome", "duration_ms", "stimuli"))
    alone = PredictionTaskDataModule(seed=9).trial(500)  # lane 2 has the seed 7 + 2
    assert all(torch.equal(late[name][2:], alone[name]) for name in ("cue", "outcome", "onset_ms", "duration_ms"))
    part = task.trial(500, [1, 2])
    assert torch.equal(part["cue"], late["cue"][1:])
    assert part["lane"].tolist() == [1, 2]
    assert len({tuple(int(task.trial(k)["outcome"][lane]) for k in range(60)) for lane in range(3)}) == 3


def test_loader_gives_all_trials_in_order_and_resumes_at_any():
    task = PredictionTaskDataModule([Phase([Cue([200.0], [0.5, 0.5])], blocks=9)], lead_in_blocks=1)
    loader = task.train_dataloader()
    first = iter(loader)
    assert [next(first)["trial"] for _ in range(4)] == [0, 1, 2, 3]
    resumed = task.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert [b["trial"] for b in resumed] == [4, 5, 6, 7, 8, 9]
    assert len(loader) == 10


def test_a_long_protocol_costs_nothing():
    task = PredictionTaskDataModule([Phase([Cue([200.0], [0.5, 0.5])], blocks=10**9)], lead_in_blocks=0)
    assert task.trial(10**9 - 1)["phase"] == 0
    assert next(iter(task.train_dataloader()))["trial"] == 0


def test_truth_lists_what_every_phase_announces():
    truth = PredictionTaskDataModule().truth()
    assert truth["latencies_ms"][:, :, 0].tolist() == [[300, 500, 700], [600, 500, 700], [600, 500, 700]]
    assert truth["outcome_probability"][:, 0, 0].tolist() == pytest.approx([0.8, 0.8, 0.2])
    batch = next(iter(PredictionTaskDataModule().test_dataloader()))
    assert torch.equal(batch["latencies_ms"], truth["latencies_ms"])


def test_lanes_of_ranks_cover_all_once():
    assert [list(lanes_of_rank(5, r, 2)) for r in range(2)] == [[0, 1], [2, 3, 4]]
    with pytest.raises(DataArgumentError, match="lanes=1"):
        lanes_of_rank(1, 0, 2)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (lambda: Cue([], [1.0]), "latencies_ms"),
        (lambda: Cue([0.0], [1.0]), "latencies_ms"),
        (lambda: Cue([100.0, 100.0], [1.0]), "twice"),
        (lambda: Cue([100.0], [0.5, 0.4]), "outcomes"),
        (lambda: Cue([100.0], [1.0], latency_weights=[0.5, 0.5]), "latency_weights"),
        (lambda: Cue([100.0], [1.0], event=1.5), "event"),
        (lambda: Cue([100.0], [1.0], channels=[]), "channels"),
        (lambda: Phase([]), "cue"),
        (lambda: Phase([Cue([100.0], [1.0])], blocks=0), "blocks"),
        (lambda: PredictionTaskDataModule([]), "phases"),
        (lambda: PredictionTaskDataModule([Phase([Cue([1000.0], [1.0])])]), "window_ms"),
        (lambda: PredictionTaskDataModule([Phase([Cue([100.0], [0.25, 0.75])])]), "urn=10"),
        (
            lambda: PredictionTaskDataModule([Phase([Cue([100.0], [1.0])]), Phase([Cue([100.0], [0.5, 0.5])])]),
            "phase 1",
        ),
        (lambda: PredictionTaskDataModule([Phase([Cue([100.0], [1.0], channels=[3])])]), "channels"),
        (lambda: PredictionTaskDataModule(lanes=0), "lanes"),
        (lambda: PredictionTaskDataModule(probe_every=1), "probe_every"),
        (lambda: PredictionTaskDataModule(trial_ms=900), "trial_ms"),
        (lambda: PredictionTaskDataModule(trial_ms=1203), "multiples"),
        (lambda: PredictionTaskDataModule(interval_ms=(400, 300)), "interval_ms"),
        (lambda: PredictionTaskDataModule(distractors=1.0), "distractor_channels"),
        (lambda: PredictionTaskDataModule(latency_jitter_ms=float("nan")), "latency_jitter_ms"),
        (lambda: PredictionTaskDataModule().trial(651), "trial 651"),
        (lambda: PredictionTaskDataModule().trial(0, [1]), "lanes"),
    ],
)
def test_bad_input_is_told(bad, named):
    with pytest.raises(DataArgumentError, match=named):
        bad()
