"""The rule of adaptive replay ratio: the published code's loop as the oracle, the general rule by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity_lightning.control.replay_ratio import RatioRule, RatioState, make_rule


def published_loop(fau_of_episodes, every, tolerance):
    """The published training loop's bookkeeping, quirk for quirk. `fau_of_episodes[e - 1]` holds the FAU of each update
    of episode e. Returns the episodes after whose end the ratio is 2."""
    ratio, previous, running, high_after = 0.5, None, [], []
    for e, values in enumerate(fau_of_episodes, start=1):
        for value in values:
            if previous is None:
                previous = value  # FAU of the very first update
            running.append(value)
        if e % every == every - 1:
            running = []
        if e % every == 0:
            if running:
                mean = sum(running) / len(running)
                if abs(mean - previous) <= tolerance and ratio == 0.5:
                    ratio = 2.0  # once, for good
                previous = mean
            running = []
        if ratio == 2.0:
            high_after.append(e)
    return high_after


@given(
    every=st.integers(2, 6),
    levels=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    seed=st.integers(0, 1000),
)
def test_published_preset_is_the_published_loop(every, levels, seed):
    episodes = [[0.25 + level / 1024] * ((seed >> i % 10) % 4) for i, level in enumerate(levels)]  # some have no update
    tolerance = 1 / 1024
    state = RatioState(make_rule("published_code", check_every=every, raise_when=f"change <= {tolerance}"))
    high_after = []
    for e, values in enumerate(episodes, start=1):
        for value in values:
            state.read(value)
        state.unit_over(e)
        if state.replay_ratio == 2.0:
            high_after.append(e)
    assert high_after == published_loop(episodes, every, tolerance)


def test_published_preset_looks_at_the_last_episode_only():
    state = RatioState(make_rule("published_code", check_every=3))
    for e, value in enumerate([0.5, 0.9, 0.5], start=1):
        state.read(value)
        decision = state.unit_over(e)
    assert decision.moved  # episode 3 against the first update: no change, whatever episode 2 was
    assert decision.measure == 0.5


def test_paper_compares_means_of_whole_windows():
    state = RatioState(make_rule("paper", check_every=2))
    readings = [0.5, 0.7, 0.6, 0.6, 0.9, 0.9]  # means 0.6, 0.6, 0.9
    decisions = []
    for e, value in enumerate(readings, start=1):
        state.read(value)
        decisions.append(state.unit_over(e))
    assert [d and d.moved for d in decisions] == [None, False, None, True, None, False]
    assert "reference" in decisions[1].reason
    assert "0.5 -> 2" in decisions[3].reason
    assert state.replay_ratio == 2.0


def run(rule, means):
    """Ratio after each check of windows with these means."""
    state = RatioState(rule)
    ratios = []
    for unit, mean in enumerate(means, start=1):
        state.read(mean)
        state.unit_over(unit)
        ratios.append(state.replay_ratio)
    return ratios


def test_a_ladder_goes_up_and_down():
    rule = RatioRule((0.5, 1, 2, 4), 1, "value > 0.5", "value < 0.3")
    assert run(rule, [0.9, 0.6, 0.6, 0.6, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2]) == [0.5, 1, 2, 4, 4, 4, 2, 1, 0.5, 0.5]


def test_patience_asks_for_consecutive_checks():
    rule = RatioRule((1, 2), 1, "value > 0.5", patience=2)
    assert run(rule, [0, 0.6, 0.4, 0.6, 0.6]) == [1, 1, 1, 1, 2]


def test_hysteresis_only_matters_for_taking_a_move_back():
    rule = RatioRule((1, 2), 1, "value > 0.5", "value < 0.5", hysteresis=0.2)
    assert run(rule, [0, 0.6, 0.4, 0.25, 0.6, 0.75]) == [1, 2, 2, 1, 1, 2]


def test_cooldown_rests_after_a_move():
    rule = RatioRule((1, 2, 3), 1, "value > 0.5", cooldown=2)
    assert run(rule, [0, 0.6, 0.6, 0.6, 0.6]) == [1, 2, 2, 2, 3]


def test_rise_and_fall_have_a_sign():
    assert run(RatioRule((1, 2), 1, "rise >= 0.1"), [0.5, 0.25, 0.5]) == [1, 1, 2]
    assert run(RatioRule((1, 2), 1, "fall >= 0.1"), [0.5, 0.75, 0.5]) == [1, 1, 2]


def test_readings_are_weighted_and_nan_is_none():
    state = RatioState(RatioRule(check_every=1))
    state.read(0.2, 3)
    state.read(0.6, 1)
    state.read(math.nan)
    assert state.unit_over(1).measure == pytest.approx(0.3)
    assert state.unit_over(2) is None  # nothing was read


def test_a_counter_may_jump_over_a_check():
    state = RatioState(RatioRule(check_every=100))
    state.read(0.5)
    assert state.unit_over(99) is None
    assert state.unit_over(260) is not None


@given(cut=st.integers(1, 19), seed=st.integers(0, 99))
def test_resume_at_any_moment(cut, seed):
    rule = RatioRule((0.5, 1, 2), 2, "value > 0.5", "value < 0.4", patience=2, cooldown=1)
    values = [((seed * 37 + i * 61) % 97) / 97 for i in range(20)]
    whole, first, second = RatioState(rule), RatioState(rule), RatioState(rule)
    for i, value in enumerate(values, start=1):
        whole.read(value)
        whole.unit_over(i)
        if i == cut + 1:
            second.load_state_dict(first.state_dict())
        part = first if i <= cut else second
        part.read(value)
        part.unit_over(i)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ladder": [2, 0.5]}, "ladder"),
        ({"ladder": [1]}, "ladder"),
        ({"ladder": [0, 1]}, "replay_ratio=0"),
        ({"check_every": 0}, "check_every=0"),
        ({"raise_when": "chnge <= 1"}, "did you mean 'change'"),
        ({"raise_when": "change = 1"}, "raise_when="),
        ({"lower_when": "value < x"}, "no number"),
        ({"patience": 0}, "patience=0"),
        ({"average_over": "all"}, "average_over='all'"),
        ({"preset": "papre"}, "did you mean 'paper'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_rule(**options)


def test_a_checkpoint_from_a_longer_ladder_is_refused():
    state = RatioState(RatioRule((1, 2, 3), 1)).state_dict() | {"rung": 2}
    with pytest.raises(ValueError, match="no rung 2"):
        RatioState(RatioRule((1, 2), 1)).load_state_dict(state)
