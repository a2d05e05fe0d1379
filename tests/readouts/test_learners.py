"""Whole-trial learners on a time code of one-hot samples: what each learns, surprise, targets, errors."""

from __future__ import annotations

import math

import pytest
import torch

from plasticity_lightning.readouts.learner import Trial
from plasticity_lightning.readouts.learners import LEARNERS, learner_named
from plasticity_lightning.readouts.modulation import Modulation
from plasticity_lightning.readouts.surprise import associability_step, expected_error_step, surprised_rate
from plasticity_lightning.readouts.targets import evoked_response, gaussian_target, outcome_one_hot, per_readout

TIME = torch.arange(-100.0, 600.0, 5.0) + 5.0
N = len(TIME)


def trial(onset: float = 300.0, outcome: int = 0, learn: float = 1.0) -> Trial:
    return Trial(TIME, torch.tensor([onset]), torch.tensor([outcome]), torch.tensor([learn]), torch.tensor([2000.0]))


def run(rule: str, trials, **arguments):
    """Every sample is a neuron of its own: readouts are read off the weights."""
    learner = learner_named(rule, arguments)
    state = learner.start(1, 2, N)
    x = torch.eye(N)[None]
    for t in trials:
        state, _ = learner.learn(state, x, t, Modulation(window_ms=500.0))
    return state["weight"][0].float()


@pytest.mark.parametrize("rule", list(LEARNERS))
def test_every_rule_finds_the_time_of_an_outcome(rule):
    weight = run(rule, [trial()] * 60)
    assert TIME[weight[0].argmax()].item() == pytest.approx(300, abs=10)
    # the identity that never came is predicted at no time
    assert weight[2].abs().max() < 1e-6


def test_supervised_rules_learn_every_twenty_milliseconds_of_the_window_only():
    weight = run("force", [trial()] * 20)
    learned = TIME[weight[0].abs() > 1e-3]
    assert bool((learned % 20 == 0).all())
    assert float(learned.min()) >= 0 and float(learned.max()) < 600  # noqa: PT018


@pytest.mark.parametrize("rule", list(LEARNERS))
def test_a_probe_teaches_nothing(rule):
    assert not bool(run(rule, [trial(learn=0.0)] * 5).any())


def test_an_omission_lowers_the_expectation_of_an_event_and_leaves_identities():
    before = run("three_factor", [trial()] * 30)
    after = run("three_factor", [trial()] * 30 + [trial(-1.0, -1)] * 10)
    assert after[0].max() < 0.5 * before[0].max()
    assert torch.equal(after[1:], before[1:])


def test_a_tag_behind_the_onset_leaks_and_one_before_it_does_not():
    before, behind = run("three_factor", [trial()] * 5), run("three_factor", [trial()] * 5, tag_end_ms=60.0)
    assert not bool(before[1, TIME >= 300].any())
    assert bool(behind[1, TIME >= 300].any())


def test_an_offline_gain_of_zero_and_the_option_none_learn_no_identity():
    learner = learner_named("three_factor")
    state, _ = learner.learn(learner.start(1, 2, N), torch.eye(N)[None], trial(), Modulation(offline_gain=0.0))
    assert not bool(state["weight"][0, 1:].any())
    assert not bool(run("three_factor", [trial()] * 3, offline="none")[1:].any())


def test_reset_keeps_weights_and_forgets_the_rest():
    for rule in LEARNERS:
        learner = learner_named(rule)
        fresh = learner.start(1, 2, N)
        state, _ = learner.learn(learner.start(1, 2, N), torch.eye(N)[None], trial(), Modulation())
        reset = learner.reset(state)
        assert torch.equal(reset["weight"], state["weight"])
        assert all(torch.equal(reset[name], fresh[name]) for name in fresh if name != "weight"), rule


def test_signed_surprise_is_small_while_outcomes_only_vary_and_large_after_a_change():
    def surprise(outcomes):
        learner = learner_named("three_factor", {"surprise": "signed", "surprise_gain": 0.0})
        state = learner.start(1, 2, N)
        for outcome in outcomes:
            state, _ = learner.learn(state, torch.eye(N)[None], trial(outcome=outcome), Modulation())
        return float(state["surprise"])

    mixed = [0, 1] * 20
    assert surprise([0] * 30 + [1] * 3) > 2 * surprise(mixed)


def test_surprise_by_hand():
    # a <- 0.5 + 0.2 (1 - 0.5)
    assert associability_step(torch.tensor(0.5), torch.tensor(-1.0), 0.2).item() == pytest.approx(0.6)
    weight, expected = expected_error_step(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor(0.5), 0.2)
    assert expected.item() == pytest.approx(0.2 * 0.5 / 1.001)
    assert weight.tolist() == pytest.approx([0.1 / 1.001, 0.0])
    # 0.2 (1 + 4 * (0.5 - 0.25)) = 0.4; never above the largest, never below the rate
    assert surprised_rate(0.2, torch.tensor([-0.5, 0.1, 9.0]), 4.0, 0.25).tolist() == pytest.approx([0.4, 0.2, 1.0])


def test_surprise_raises_the_rate_it_is_said_to_raise():
    plain = run("three_factor", [trial()] * 3)
    for kind in ("unsigned", "signed"):
        faster = run("three_factor", [trial()] * 3, surprise=kind, surprise_gain=3.0)
        assert torch.equal(faster[0], plain[0])
        assert faster[1].max() > plain[1].max()


def test_targets_by_hand():
    time, onset = torch.tensor([100.0, 130.0, 160.0, 220.0]), torch.tensor([100.0, -1.0])
    response = evoked_response(time, onset, 60.0)
    assert response[0].tolist() == pytest.approx([0.0, math.sin(math.pi / 4) ** 2, 1.0, 0.0], abs=1e-6)
    assert not bool(response[1].any())
    bump = gaussian_target(time, onset, 30.0)
    assert bump[0].tolist() == pytest.approx([1.0, math.exp(-0.5), math.exp(-2), math.exp(-8)])
    assert not bool(bump[1].any())
    assert outcome_one_hot(torch.tensor([1, -1]), 3).tolist() == [[0, 1, 0], [0, 0, 0]]
    both = per_readout(torch.tensor([[0.5], [0.25]]), torch.tensor([1, -1]), 2)  # the event, outcomes 0 and 1
    assert both.tolist() == [[[0.5, 0.0, 0.5]], [[0.25, 0.0, 0.0]]]


@pytest.mark.parametrize(
    ("rule", "arguments", "named"),
    [
        ("hebb", {}, "must be one of"),
        ("nowhere.Rule", {}, "cannot be imported"),
        ("plasticity_lightning.readouts.learner.Trial", {}, "must be a dataclass"),
        ("three_factor", {"delay": 3}, "did you mean 'delay_ms'"),
        ("three_factor", {"eta": 0.0}, "eta=0.0"),
        ("three_factor", {"delay_ms": -5.0}, "delay_ms"),
        ("three_factor", {"eta_offline": 3.0}, "eta_offline"),
        ("three_factor", {"replay_memory": 100}, "replay_memory"),
        ("three_factor", {"updates": 0}, "updates"),
        ("three_factor", {"surprise_gain": -1.0}, "surprise_gain"),
        ("lms", {"response_ms": 0.0}, "response_ms"),
        ("rls", {"forgetting": 1.1}, "forgetting"),
        ("rls", {"sigma_ms": 0.0}, "sigma_ms"),
        ("ridge", {"alpha": -1.0}, "alpha"),
    ],
)
def test_bad_options_are_named(rule, arguments, named):
    with pytest.raises(ValueError, match=named):
        learner_named(rule, arguments)
