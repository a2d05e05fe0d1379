"""Environments in this process and in others give the same steps; whoever dies or returns nonsense is named."""

import io
import os
import signal
import time

import numpy as np
import pytest
import torch

from plasticity_lightning.control.environments import BrokenEnvironmentError, Collector, EnvironmentSpec
from plasticity_lightning.errors import UserError

COUNTER = "tests.control.environments.toys:Counter"


def run(collector, n, seed=0):
    generator = np.random.default_rng(seed)
    steps = []
    for _ in range(n):
        collector.submit(collector.actions.sample(generator, collector.n))
        step = collector.result()
        step.reset_frame[~step.last] = 0  # undefined there
        steps.append(step)
    return steps


def equal(ours, theirs):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(ours, theirs, strict=True)
        for name in vars(a)
    )


@pytest.mark.parametrize("name", ["reach", COUNTER])
def test_processes_step_as_the_inline_collector_and_go_on_from_its_state(name):
    spec, seeds = EnvironmentSpec(name), [3, 4, 5]
    inline, process = Collector(spec, seeds, "inline"), Collector(spec, seeds, "process", processes=2)
    try:
        assert (process.frame_shape, process.actions) == (inline.frame_shape, inline.actions)
        assert np.array_equal(inline.reset(), process.reset())
        ours, theirs = run(inline, 50), run(process, 50)
        assert any(step.last.any() for step in ours)
        assert equal(ours, theirs)
        file = io.BytesIO()
        torch.save(inline.state(), file)
        file.seek(0)
        expected = run(inline, 50, seed=1)
        process.set_state(torch.load(file, weights_only=True))
        assert equal(run(process, 50, seed=1), expected)
    finally:
        process.close()
        process.close()
    with pytest.raises(RuntimeError, match="closed"):
        process.reset()


def test_the_step_after_the_last_is_the_first_of_the_next_episode():
    collector = Collector(EnvironmentSpec(COUNTER, {"termination": 0.0}), [0], "inline")
    collector.reset()
    steps = run(collector, 8)
    assert [bool(step.last[0]) for step in steps] == [False] * 6 + [True, False]
    # the counter is not reset: frame 7 ends the episode, begins the next one, and frame 8 is its second
    assert [int(step.frame[0, 0, 0, 0]) for step in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps[6].reset_frame[0, 0, 0, 0] == 7
    assert steps[6].discount[0] == 1.0  # time limit


def test_environment_processes_do_without_torch():
    collector = Collector(EnvironmentSpec("tests.control.environments.toys:HasTorch"), [0], "process")
    try:
        collector.reset()
        assert run(collector, 1)[0].reward[0] == 0.0
    finally:
        collector.close()
    assert Collector(EnvironmentSpec("tests.control.environments.toys:HasTorch"), [0], "inline").reset().shape


@pytest.mark.parametrize("mode", ["inline", "process"])
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("nan", "reward nan"),
        ("shape", r"\[1, 3, 3\], not uint8 \[1, 2, 2\]"),
        ("raise", "ZeroDivisionError: gone wrong"),
    ],
)
def test_nonsense_from_an_environment_is_an_error(mode, failure, message):
    collector = Collector(EnvironmentSpec(COUNTER, {"failure": failure}), [0, 1], mode)
    try:
        collector.reset()
        with pytest.raises(BrokenEnvironmentError, match=message):
            run(collector, 3)
    finally:
        collector.close()


def test_a_dying_process_is_an_error_that_says_how_it_died():
    collector = Collector(EnvironmentSpec(COUNTER, {"failure": "die"}), [0], "process")
    try:
        collector.reset()
        with pytest.raises(BrokenEnvironmentError, match="exited with 3"):
            run(collector, 3)
    finally:
        collector.close()
    collector = Collector(EnvironmentSpec(COUNTER), [0], "process")
    try:
        collector.reset()
        os.kill(collector._parts[0]._process.pid, signal.SIGKILL)
        with pytest.raises(BrokenEnvironmentError, match="died by signal 9"):
            run(collector, 2)
    finally:
        collector.close()


def test_signals_of_the_terminal_leave_the_processes_alone_and_close_ends_them():
    collector = Collector(EnvironmentSpec(COUNTER), [0], "process")
    process = collector._parts[0]._process
    collector.reset()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    assert len(run(collector, 5)) == 5
    collector.close()
    assert process.returncode == 0


def test_wrong_use_is_refused():
    collector = Collector(EnvironmentSpec("reach"), [0, 1], "inline")
    collector.reset()
    with pytest.raises(RuntimeError, match="submit actions first"):
        collector.result()
    with pytest.raises(ValueError, match=r"expected \[2, 2\]"):
        collector.submit(np.zeros((1, 2), np.float32))
    for bad in (1.5, np.nan):
        with pytest.raises(ValueError, match=r"not within \[-1.0, 1.0\]"):
            collector.submit(np.full((2, 2), bad, np.float32))
    collector.submit(np.zeros((2, 2), np.float32))
    for call in (lambda: collector.submit(np.zeros((2, 2), np.float32)), collector.state):
        with pytest.raises(RuntimeError, match="fetch the result"):
            call()
    with pytest.raises(ValueError, match="of 1 environments"):
        collector.set_state([{}])
    discrete = Collector(EnvironmentSpec(COUNTER, {"discrete": True}), [0], "inline")
    discrete.reset()
    for bad, message in ((np.array([3]), "not in 0..2"), (np.array([0.5]), "integers")):
        with pytest.raises(ValueError, match=message):
            discrete.submit(bad)


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="did you mean 'reach'"):
        Collector(EnvironmentSpec("raech"), [0], "inline")
    with pytest.raises(UserError, match="did you mean 'reach'"):
        Collector(EnvironmentSpec("raech"), [0], "process")
    with pytest.raises(UserError, match="size=2 must be at least 8"):
        Collector(EnvironmentSpec("reach", {"size": 2}), [0], "inline")
    with pytest.raises(UserError, match="cannot be imported"):
        Collector(EnvironmentSpec("nowhere:Nothing"), [0], "inline")
    with pytest.raises(ValueError, match="did you mean 'process'"):
        Collector(EnvironmentSpec("reach"), [0], "proces")
    with pytest.raises(ValueError, match=r"processes=3 must be in 1\.\.2"):
        Collector(EnvironmentSpec("reach"), [0, 1], "process", processes=3)
    with pytest.raises(ValueError, match="at least one seed"):
        Collector(EnvironmentSpec("reach"), [], "inline")


def test_scenes_are_the_environments_own_in_both_modes():
    inline, process = (Collector(EnvironmentSpec("reach"), [3, 4], mode) for mode in ("inline", "process"))
    try:
        inline.reset(), process.reset()
        scenes = inline.render(32, 40)
        assert scenes.shape == (2, 32, 40, 3)
        assert not np.array_equal(scenes[0], scenes[1])
        assert np.array_equal(scenes, process.render(32, 40))
        inline.submit(np.zeros((2, 2), np.float32))
        with pytest.raises(RuntimeError, match="fetch the result"):
            inline.render(8, 8)
    finally:
        inline.close(), process.close()


@pytest.mark.parametrize("name", ["reach", pytest.param("cartpole_balance", marks=pytest.mark.rendering), "atari/pong"])
def test_any_seed_that_is_not_negative_will_do(name):
    if name.startswith("atari"):
        pytest.importorskip("ale_py", reason="the games come with the extra atari")
    # the loop derives 63 bits; some simulators take 31 or 32
    for seed in (0, 2**32, 2**63 - 1):
        EnvironmentSpec(name).make(seed).close()
