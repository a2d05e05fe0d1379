"""Tasks of dm_control: DrQ-v2's rules, what each render quality changes, and a state that continues to the bit."""

import subprocess
import sys

import numpy as np
import pytest

from plasticity_lightning.control.environments import Collector, EnvironmentSpec, make_environment
from plasticity_lightning.control.environments.headless import import_suite
from plasticity_lightning.errors import UserError

pytestmark = pytest.mark.rendering

TASK = "cartpole_swingup"
# one of every other domain, where there is a choice one that moves its target or its ground
OTHERS = [
    "acrobot_swingup",
    "ball_in_cup_catch",
    "cheetah_run",
    "dog_run",
    "finger_turn_hard",
    "fish_swim",
    "hopper_hop",
    "humanoid_run",
    "humanoid_CMU_run",
    "manipulator_bring_ball",
    "pendulum_swingup",
    "point_mass_hard",
    "quadruped_escape",
    "reacher_hard",
    "stacker_stack_2",
    "swimmer_swimmer6",
    "walker_run",
]


def play(environment, actions):
    return [environment.step(action) for action in actions]


def same(ours, theirs):
    return all(np.array_equal(a.frame, b.frame) and a[1:] == b[1:] for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("task", [TASK, *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)])
def test_another_environment_continues_from_the_state_to_the_bit(task):
    first, other = make_environment(task, seed=1), make_environment(task, seed=2)
    actions = first.actions.sample(np.random.default_rng(0), 12)
    first.reset()
    other.reset()
    play(first, actions[:4])
    state = first.state()
    # the next episode too: its target and start come from the random state
    expected = [*play(first, actions[4:8]), first.reset(), *play(first, actions[8:])]
    other.set_state(state)
    assert same([*play(other, actions[4:8]), other.reset(), *play(other, actions[8:])], expected)
    first.close()
    other.close()


@pytest.mark.slow
def test_processes_render_the_same_pixels():
    spec = EnvironmentSpec(TASK, {"size": 32})
    inline, process = Collector(spec, [0, 1], "inline"), Collector(spec, [0, 1], "process")
    try:
        assert np.array_equal(inline.reset(), process.reset())
        for actions in inline.actions.sample(np.random.default_rng(0), 20).reshape(10, 2, 1):
            inline.submit(actions)
            process.submit(actions)
            ours, theirs = process.result(), inline.result()
            assert all(np.array_equal(getattr(ours, k), getattr(theirs, k)) for k in vars(ours))
    finally:
        inline.close()
        process.close()


def test_steps_are_dm_controls_own_with_summed_rewards_and_its_default_pixels():
    environment = make_environment(TASK, seed=3, size=48)
    theirs = import_suite().load("cartpole", "swingup", task_kwargs={"random": 3})
    frame = environment.reset().frame
    theirs.reset()
    assert np.array_equal(frame, theirs.physics.render(48, 48, camera_id=0).transpose(2, 0, 1))
    step = environment.step(np.array([0.5], np.float32))
    rewards = [theirs.step([0.5]).reward for _ in range(2)]
    assert step.reward == pytest.approx(sum(rewards), abs=1e-12)
    assert np.array_equal(step.frame, theirs.physics.render(48, 48, camera_id=0).transpose(2, 0, 1))
    # a video frame of another size leaves the next frame alone
    assert environment.render(96, 64).shape == (96, 64, 3)
    again = environment.step(np.array([0.5], np.float32))
    for _ in range(2):
        theirs.step([0.5])
    assert np.array_equal(again.frame, theirs.physics.render(48, 48, camera_id=0).transpose(2, 0, 1))
    environment.close()


def test_an_episode_has_500_steps_and_ends_by_time():
    environment = make_environment(TASK, size=8, render_quality="fast")
    environment.reset()
    steps = play(environment, np.zeros((500, 1), np.float32))
    assert (environment.episode_steps, environment.frames_per_step) == (500, 2)
    assert [step.last for step in steps] == [False] * 499 + [True]
    assert steps[-1].discount == 1.0
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step(np.zeros(1, np.float32))
    environment.close()


def test_worse_qualities_stay_near_the_exact_pixels():
    frames = {}
    for quality in ("exact", "near", "fast"):
        environment = make_environment(TASK, seed=0, render_quality=quality)
        frames[quality] = environment.reset().frame.astype(float)
        environment.close()
    near, fast = (np.abs(frames[quality] - frames["exact"]).mean() for quality in ("near", "fast"))
    assert near < 0.5
    assert 0 < fast < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"render_quality": "best"}, "one of exact, near, fast"),
        ({"camera": 9}, r"camera=9 must be in 0\.\."),
        ({"action_repeat": 0}, "action_repeat=0 must be positive"),
        ({"colour": 1}, "does not take options .* unexpected keyword argument 'colour'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        make_environment(TASK, **options)


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="'cartpole_swingup'"):
        make_environment("cartpole_swing_up")


def test_missing_back_ends_name_the_debian_packages():
    program = """
import os
os.environ.pop("MUJOCO_GL", None)
from plasticity_lightning.control.environments.headless import import_suite
import_suite(find_library=lambda name: None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "libegl1 and libgl1-mesa-dri" in done.stderr
    assert "libosmesa6" in done.stderr


@pytest.mark.slow
def test_torch_optimisers_after_a_render_do_not_crash():
    program = """
from plasticity_lightning.control.environments import Collector, EnvironmentSpec, make_environment
environment = make_environment("cartpole_swingup", size=16)
environment.reset()
import torch
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
