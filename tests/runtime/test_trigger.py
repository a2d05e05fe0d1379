"""Triggers fire when they should, once, and go on after a resume as if nothing had happened."""

import math
from types import SimpleNamespace

import pytest
import torch

from plasticity_lightning.runtime.trigger import Condition, Trigger, parse_condition


def trainer(step, value=None, every=1):
    metrics = {} if value is None else {"plasticity/fau/critic": torch.tensor(value)}
    return SimpleNamespace(
        global_step=step,
        optimizers=["one"],
        current_epoch=0,
        fit_loop=SimpleNamespace(total_batch_idx=step - 1),
        log_every_n_steps=every,
        callback_metrics=metrics,
        world_size=1,
    )


def events(trigger, values, first=1):
    return [i for i, value in enumerate(values, first) if trigger.due(trainer(i, value), None)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plasticity/fau/critic < 0.2", Condition("plasticity/fau/critic", "<", 0.2)),
        ("a<=1e-3", Condition("a", "<=", 1e-3)),
        (" val/loss >= -2 ", Condition("val/loss", ">=", -2.0)),
        ("x > .5", Condition("x", ">", 0.5)),
    ],
)
def test_conditions_are_read(text, expected):
    assert parse_condition(text) == expected


@pytest.mark.parametrize("text", ["", "fau", "fau = 0.2", "fau < low", "0.2", "a < b < 1", "fau < nan", "fau <"])
def test_other_texts_are_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match=r"plasticity/fau/critic < 0\.2"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of every, at and trigger"),
        ({"every": 2, "trigger": "a < 1"}, "exactly one of every, at and trigger"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"at": [0, 3]}, "at=\\[0, 3\\] must hold readings"),
        ({"at": []}, "must hold readings"),
        ({"every": 1, "hysteresis": 0.1}, "belong to a condition"),
        ({"trigger": "a < 1", "refractory": -1}, "must not be negative"),
        ({"every": 1, "unit": "step"}, "unit must be one of"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trigger(**arguments)


def test_a_schedule_fires_on_crossing_though_the_counter_jumps():
    trigger = Trigger(every=5)
    assert [s for s in (2, 4, 6, 8, 12, 14, 15) if trigger.due(trainer(s), None)] == [6, 12, 15]


def test_given_readings_fire_once_each_though_the_counter_jumps():
    trigger = Trigger(at=[7, 3])
    assert [s for s in (2, 4, 6, 8, 10) if trigger.due(trainer(s), None)] == [4, 8]


def test_a_condition_fires_once_until_the_value_has_gone_back_by_the_hysteresis():
    trigger = Trigger(trigger="plasticity/fau/critic < 0.2", hysteresis=0.1)
    # fires at 2; 0.25 is no retreat, so 4 does not fire; 0.3 is one, so 6 does
    assert events(trigger, [0.5, 0.1, 0.25, 0.1, 0.3, 0.1, 0.1]) == [2, 6]


def test_a_condition_above_a_threshold():
    trigger = Trigger(trigger="plasticity/fau/critic >= 0.5", hysteresis=0.25)
    assert events(trigger, [0.5, 0.3, 0.6, 0.25, 0.6]) == [1, 5]


def test_without_hysteresis_the_threshold_itself_arms_and_fires_only_once_per_side():
    assert events(Trigger(trigger="plasticity/fau/critic <= 0.5"), [0.5, 0.5, 0.6, 0.5]) == [1, 4]


def test_the_refractory_period_delays_a_crossing():
    trigger = Trigger(trigger="plasticity/fau/critic < 0.2", refractory=4)
    # armed again at 2 and below at 3, but 1 + 4 = 5 is the earliest
    assert events(trigger, [0.1, 0.5, 0.1, 0.1, 0.1, 0.1]) == [1, 5]


def test_nan_and_absence_never_fire():
    trigger = Trigger(trigger="plasticity/fau/critic < 0.2")
    assert events(trigger, [None, math.nan, 0.1]) == [3]


def test_a_metric_that_never_comes_is_reported_with_the_nearest_name():
    trigger = Trigger(trigger="plasticity/fau/critik < 0.2")
    with pytest.warns(UserWarning, match=r"critik.*did you mean 'plasticity/fau/critic'"):
        events(trigger, [0.1] * 25)


def test_a_condition_is_read_at_logging_steps_and_at_the_end_of_epochs():
    trigger = Trigger(trigger="plasticity/fau/critic < 0.2")
    assert not trigger.due(trainer(4, 0.1, every=5), None)
    assert trigger.due(trainer(5, 0.1, every=5), None) == "plasticity/fau/critic = 0.1 < 0.2"
    trigger = Trigger(trigger="plasticity/fau/critic < 0.2")
    assert trigger.due(trainer(4, 0.1, every=5), None, epoch_end=True)


@pytest.mark.parametrize(
    "arguments", [{"every": 3}, {"at": [2, 6]}, {"trigger": "plasticity/fau/critic < 0.2", "refractory": 3}]
)
@pytest.mark.parametrize("cut", range(8))
def test_a_resumed_trigger_fires_as_an_uninterrupted_one(arguments, cut):
    values = [0.1, 0.5, 0.1, 0.1, 0.5, 0.3, 0.1, 0.1]
    whole = events(Trigger(**arguments), values)
    first, second = Trigger(**arguments), Trigger(**arguments)
    before = events(first, values[:cut])
    second.load_state_dict(first.state_dict())
    assert before + events(second, values[cut:], first=cut + 1) == whole
