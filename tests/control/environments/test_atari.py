"""Atari against the published preprocessing, frame by frame, and a state that continues to the bit."""

import numpy as np
import pytest

from plasticity_lightning.control.environments import EnvironmentSpec, make_environment
from plasticity_lightning.control.environments.resize import area_resize
from plasticity_lightning.errors import UserError

ale_py = pytest.importorskip("ale_py", reason="ale-py (extra: atari) is not installed")


def emulator(game, seed):
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path(game))
    ale.reset_game()
    return ale


def test_a_step_is_four_frames_and_the_maximum_of_the_last_two():
    environment, ale = make_environment("atari/breakout", seed=5), emulator("breakout", 5)
    assert environment.frame_shape == (1, 84, 84)
    assert environment.actions.n == len(ale.getMinimalActionSet()) == 4
    frame = environment.reset().frame
    assert np.array_equal(frame[0], area_resize(ale.getScreenGrayscale(), 84, 84))
    rewards = []
    for action in np.random.default_rng(0).integers(0, 4, 200):
        lives, reward, screens = ale.lives(), 0, []
        for _ in range(4):
            reward += ale.act(ale.getMinimalActionSet()[action])
            screens.append(ale.getScreenGrayscale())
            if ale.lives() < lives:
                break
        step = environment.step(action)
        rewards.append(step.reward)
        assert step.reward == np.clip(reward, -1, 1)
        assert step.last == (ale.lives() < lives)
        assert step.discount == 1 - step.last
        if step.last:
            # the game goes on where it was: no frame is emulated by the reset
            assert np.array_equal(environment.reset().frame, step.frame)
        else:
            assert np.array_equal(step.frame[0], area_resize(np.maximum(screens[2], screens[3]), 84, 84))
    assert sum(rewards) > 0


def test_evaluation_plays_whole_games_for_their_score():
    spec = EnvironmentSpec("atari/breakout").for_evaluation()
    environment = spec.make(0)
    environment.reset()
    lives, steps = environment._ale.lives(), []
    generator = np.random.default_rng(0)
    while not (steps and steps[-1].last):
        steps.append(environment.step(generator.integers(0, 4)))
    assert lives == 5
    assert environment._ale.game_over()
    assert steps[-1].discount == 0
    assert EnvironmentSpec("reach").for_evaluation() == EnvironmentSpec("reach")


def test_a_game_is_broken_off_without_termination():
    environment = make_environment("atari/pong", episode_steps=3)
    environment.reset()
    steps = [environment.step(np.int64(0)) for _ in range(3)]
    assert [(step.last, step.discount) for step in steps] == [(False, 1), (False, 1), (True, 1)]


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_another_environment_continues_from_the_state_to_the_bit(sticky):
    first, other = (make_environment("atari/breakout", seed=s, sticky=sticky) for s in (1, 2))
    actions = np.random.default_rng(0).integers(0, 4, 400)

    def play(environment, some):
        steps = []
        for action in some:
            steps.append(environment.step(action))
            if steps[-1].last:
                steps.append(environment.reset())
        return steps

    first.reset()
    play(first, actions[:100])
    state = first.state()
    expected = play(first, actions[100:])
    other.set_state(state)
    assert any(step.last for step in expected)
    for ours, theirs in zip(play(other, actions[100:]), expected, strict=True):
        assert np.array_equal(ours.frame, theirs.frame)
        assert ours[1:] == theirs[1:]


def test_area_resize_is_the_mean_of_what_a_pixel_covers():
    image = np.array([[0, 30, 60], [90, 120, 150]], np.uint8)
    # two columns of one and a half pixels: (0 + 30/2) / 1.5 = 10, (30/2 + 60) / 1.5 = 50; below 100 and 140
    assert area_resize(image, 2, 2).tolist() == [[10, 50], [100, 140]]
    assert area_resize(image, 1, 1).tolist() == [[75]]
    colour = np.stack([image, image // 2], axis=-1)
    assert np.array_equal(area_resize(colour, 2, 2)[..., 0], area_resize(image, 2, 2))


def test_bad_options_are_named():
    with pytest.raises(UserError, match="no Atari game 'breakuot'; did you mean 'breakout'"):
        make_environment("atari/breakuot")
    with pytest.raises(UserError, match="frame_skip=0"):
        make_environment("atari/pong", frame_skip=0)
    assert make_environment("atari/MsPacman").name == "atari/ms_pacman"
