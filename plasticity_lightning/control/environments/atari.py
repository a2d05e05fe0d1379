"""Atari games with the preprocessing of Atari-100k: every 4th frame, maximum of the last two, grey, 84x84.

As in Dopamine (Castro et al. 2018, `atari_lib.py`; Agarwal et al. 2021, `DrQ_eps.gin`): no sticky actions, the minimal
action set, no no-op starts, the loss of a life ends the learner's episode but not the game, rewards clipped to [-1, 1], a
game of at most 27,000 steps. Four frames are stacked by the agent, behind black ones at the start (`padding="zero"`).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from plasticity_lightning.control.environments.contract import DiscreteActions, PixelEnvironment, State, Step
from plasticity_lightning.control.environments.packing import pack, unpack
from plasticity_lightning.control.environments.resize import area_resize
from plasticity_lightning.errors import UserError, nearest

__all__ = ["FOR_EVALUATION", "AtariEnvironment", "rom_name"]

FOR_EVALUATION = {"life_loss_ends": False, "clip_rewards": False}
"""Options under which a return is a game's score."""


class AtariEnvironment(PixelEnvironment):
    """One game, by ale-py, whose wheel brings the games.

    Args:
        game: `pong`, `ms_pacman` or `MsPacman`, see `rom_name`.
        seed: of the emulator's random state.
        size: height and width of the frame [1, size, size].
        frame_skip: frames an action is held.
        life_loss_ends: whether the loss of a life is a termination; `reset` then goes on with the game.
        clip_rewards: whether the reward of a step is clipped to [-1, 1].
        sticky: probability that the emulator repeats the former action.
        episode_steps: steps after which a game is broken off.

    Raises:
        ValueError: if an argument is out of range.
        UserError: if ale-py is missing or has no such game.
    """

    def __init__(
        self,
        game: str,
        seed: int = 0,
        size: int = 84,
        frame_skip: int = 4,
        life_loss_ends: bool = True,
        clip_rewards: bool = True,
        sticky: float = 0.0,
        episode_steps: int = 27_000,
    ) -> None:
        if size < 1 or frame_skip < 1 or not 0 <= sticky < 1:
            raise ValueError(f"size={size} and frame_skip={frame_skip} must be positive, sticky={sticky} in [0, 1)")
        ale, rom = _ale(), rom_name(game)
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
        self._ale = ale.ALEInterface()
        self._ale.setInt("random_seed", seed % 2**31)  # the emulator takes 31 bits
        self._ale.setFloat("repeat_action_probability", sticky)
        self._ale.loadROM(ale.roms.get_rom_path(rom))
        self._moves = self._ale.getMinimalActionSet()
        super().__init__(f"atari/{rom}", (1, size, size), DiscreteActions(len(self._moves)), frame_skip, episode_steps)
        self.life_loss_ends, self.clip_rewards = life_loss_ends, clip_rewards
        self._screens = np.zeros((2, *self._ale.getScreenDims()), np.uint8)
        self._lives = self._elapsed = 0
        self._goes_on = False  # whether the game is not over though the learner's episode is

    def render(self, height: int, width: int) -> np.ndarray:
        """The emulator's screen in colour as uint8 [height, width, 3]."""
        return area_resize(self._ale.getScreenRGB(), height, width)

    def _reset(self) -> np.ndarray:
        if not self._goes_on:
            self._ale.reset_game()
            self._elapsed = 0
            self._screens[0] = self._ale.getScreenGrayscale()
            self._screens[1] = 0
        self._goes_on = False
        self._lives = self._ale.lives()
        return self._frame()

    def _step(self, action: np.ndarray) -> Step:
        reward, lost = 0.0, False
        for i in range(self.frames_per_step):
            reward += self._ale.act(self._moves[int(action)])
            over = self._ale.game_over()
            lost = self.life_loss_ends and self._ale.lives() < self._lives
            if over or lost:
                break
            # of the last two frames; a game flickers
            if i >= self.frames_per_step - 2:
                self._screens[i - self.frames_per_step + 2] = self._ale.getScreenGrayscale()
        self._elapsed += 1
        cut = self._elapsed == self.episode_steps
        self._goes_on = lost and not over and not cut
        if self.clip_rewards:
            reward = float(np.clip(reward, -1, 1))
        return Step(self._frame(), reward, 0.0 if over or lost else 1.0, over or lost or cut)

    def _frame(self) -> np.ndarray:
        return area_resize(self._screens.max(0), *self.frame_shape[1:])[None]

    def _state(self) -> State:
        return {
            "emulator": self._ale.cloneState(include_rng=True).__getstate__(),
            "screens": pack(self._screens),
            "lives": self._lives,
            "elapsed": self._elapsed,
            "goes_on": self._goes_on,
        }

    def _set_state(self, state: State) -> None:
        self._ale.restoreState(_ale().ALEState(state["emulator"]))
        self._screens = unpack(state["screens"])
        self._lives, self._elapsed, self._goes_on = state["lives"], state["elapsed"], state["goes_on"]


def rom_name(game: str) -> str:
    """ale-py's name of `game`, which may be written `MsPacman` as well.

    Raises:
        UserError: if ale-py is missing or has no such game; the message names the nearest.
    """
    names = _ale().roms.get_all_rom_ids()
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", game).lower()
    if name not in names:
        raise UserError(f"there is no Atari game {game!r}{nearest(name, names, n=3)}")
    return name


def _ale() -> Any:
    try:
        import ale_py
    except ModuleNotFoundError as error:
        raise UserError("Atari games need ale-py: pip install 'plasticity-lightning[atari]'") from error
    return ale_py
