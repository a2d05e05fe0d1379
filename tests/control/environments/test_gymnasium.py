"""Gymnasium's environments here, and ours there and in dm_env."""

import unittest

import dm_env
import gymnasium
import numpy as np
import pytest
from dm_env import test_utils
from gymnasium.utils.env_checker import check_env

from plasticity_lightning.control.environments import Collector, ContinuousActions, EnvironmentSpec, make_environment
from plasticity_lightning.control.environments.exports import DmEnvironment, GymnasiumPixels
from plasticity_lightning.control.environments.reach import ReachEnvironment
from plasticity_lightning.errors import UserError


class Corridor(gymnasium.Env):
    """A light in a row of pixels; going left off the row terminates."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, render_mode=None, images=True, continuous=False):
        self.render_mode, self.images = render_mode, images
        self.observation_space = (
            gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8) if images else gymnasium.spaces.Box(0, 1, (1,))
        )
        self.action_space = (
            gymnasium.spaces.Box(0.0, 4.0, (1,)) if continuous else gymnasium.spaces.Discrete(3, start=-1)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(2, 7))
        return self._observe(), {}

    def step(self, action):
        self.action = action
        self.place = self.place + int(np.asarray(action).item())
        over = self.place < 0
        self.place = min(max(self.place, 0), 7)
        return self._observe(), 1.0, over, False, {}

    def render(self):
        image = np.zeros((8, 8, 3), np.uint8)
        image[:, self.place] = 255
        return image

    def _observe(self):
        return self.render() if self.images else np.array([self.place / 7], np.float32)


class Saved(Corridor):
    """The same with a state."""

    def get_state(self):
        return {"place": self.place, "random": self.np_random.bit_generator.state}

    def set_state(self, state):
        self.place = state["place"]
        self.np_random.bit_generator.state = state["random"]


@pytest.fixture(autouse=True, scope="module")
def registered():
    gymnasium.register("tests/Corridor-v0", Corridor, max_episode_steps=5)
    gymnasium.register("tests/Saved-v0", Saved, max_episode_steps=5)
    yield
    for name in ("tests/Corridor-v0", "tests/Saved-v0"):
        del gymnasium.registry[name]


@pytest.mark.parametrize("images", [True, False])
def test_a_strangers_environment_is_a_pixel_environment(images):
    environment = make_environment("gymnasium/tests/Corridor-v0", seed=1, size=16, options={"images": images})
    assert (environment.frame_shape, environment.actions.n, environment.episode_steps) == ((3, 16, 16), 3, 5)
    frame = environment.reset().frame
    place = environment._environment.unwrapped.place
    assert np.array_equal(np.flatnonzero(frame[0, 0]), [2 * place, 2 * place + 1])
    steps = [environment.step(np.int64(1)) for _ in range(5)]  # Discrete counts from -1: this stays
    assert np.array_equal(steps[0].frame, frame)
    assert [step.last for step in steps] == [False] * 4 + [True]
    assert steps[-1].discount == 1.0  # its time limit


def test_termination_has_discount_zero_and_rewards_of_repeated_actions_are_summed():
    environment = make_environment("gymnasium/tests/Corridor-v0", seed=1, action_repeat=2, size=None)
    assert environment.frame_shape == (3, 8, 8)
    assert environment.episode_steps == 3
    environment.reset()
    environment._environment.unwrapped.place = 2
    steps = [environment.step(np.int64(0)) for _ in range(2)]
    assert [(step.reward, step.discount, step.last) for step in steps] == [(2.0, 1.0, False), (1.0, 0.0, True)]


def test_continuous_actions_are_scaled_to_the_bounds():
    environment = make_environment("gymnasium/tests/Corridor-v0", options={"continuous": True})
    assert environment.actions == ContinuousActions(1)
    environment.reset()
    for ours, theirs in ((-1.0, 0.0), (0.0, 2.0), (1.0, 4.0)):
        environment.step(np.array([ours], np.float32))
        assert environment._environment.unwrapped.action == theirs


def test_a_state_is_the_environments_own_or_refused():
    plain = make_environment("gymnasium/tests/Corridor-v0")
    plain.reset()
    assert not plain.resumable
    with pytest.raises(UserError, match=r"get_state\(\) and set_state\(\)"):
        plain.state()
    spec = EnvironmentSpec("gymnasium/tests/Saved-v0", {"size": 8})
    first, other = (Collector(spec, [seed], "inline") for seed in (1, 2))
    assert first.resumable
    first.reset()
    generator = np.random.default_rng(0)

    def play(collector, actions):
        steps = []
        for action in actions:
            collector.submit(action)
            steps.append(collector.result())
        return steps

    actions = [first.actions.sample(generator, 1) for _ in range(23)]
    play(first, actions[:3])
    state = first.state()
    expected = play(first, actions[3:])
    assert sum(step.last[0] for step in expected) > 2
    other.set_state(state)
    for ours, theirs in zip(play(other, actions[3:]), expected, strict=True):
        assert all(
            np.array_equal(getattr(ours, k), getattr(theirs, k)) for k in ("frame", "reward", "discount", "last")
        )


def test_what_cannot_be_made_is_named():
    with pytest.raises(UserError, match="cannot make 'CartPole-v9'"):
        make_environment("gymnasium/CartPole-v9")
    with pytest.raises(UserError, match="no environment 'tests/Coridor-v0'; did you mean 'tests/Corridor-v0'"):
        make_environment("gymnasium/tests/Coridor-v0")


def test_gymnasium_accepts_ours():
    environment = gymnasium.make("plasticity/reach-v0", stack=2, render_mode="rgb_array")
    check_env(environment.unwrapped, skip_render_check=True)
    first, _ = environment.reset(seed=3)
    assert first.shape == (6, 24, 24)
    assert np.array_equal(first, environment.reset(seed=3)[0])
    ends = [environment.step(np.zeros(2, np.float32))[2:4] for _ in range(40)]
    assert ends == [(False, False)] * 39 + [(False, True)]
    assert environment.render().shape == (256, 256, 3)
    assert isinstance(environment.unwrapped, GymnasiumPixels)


class TestDmEnvironment(test_utils.EnvironmentTestMixin, unittest.TestCase):
    """dm_env's own tests of an environment, and one of ours."""

    def make_object_under_test(self):
        return DmEnvironment(ReachEnvironment())

    def test_frames_are_stacked_and_the_last_step_is_followed_by_a_reset(self):
        environment = DmEnvironment(ReachEnvironment(episode_steps=2))
        first = environment.reset()
        second = environment.step(np.ones(2, np.float32))
        third = environment.step(np.ones(2, np.float32))
        assert first.observation.shape == (9, 24, 24)
        assert np.array_equal(second.observation[:6], first.observation[3:])
        assert np.array_equal(third.observation[3:6], second.observation[6:])
        assert (third.step_type, third.discount) == (dm_env.StepType.LAST, 1.0)
        assert environment.step(np.ones(2, np.float32)).first()
