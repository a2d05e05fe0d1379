"""DrQ(eps): discrete control from pixels in the setting of Atari-100k, on the same loop as DrQ-v2.

A dueling network learns double Q-learning targets over n steps; actions are epsilon-greedy; states and next states are
shifted and scaled in intensity at random, but not when acting; the target network is copied after every update. The
defaults are the published settings of `DrQ_eps.gin`. Observations are [B, S C, H, W], actions int64 [B].

Sources: Kostrikov et al. 2020 (DrQ); Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from plasticity_lightning.control.actor_critic import soft_update
from plasticity_lightning.control.augmentation import random_intensity
from plasticity_lightning.control.environments.contract import DiscreteActions
from plasticity_lightning.control.exploration import parse_schedule
from plasticity_lightning.control.replay import Batch
from plasticity_lightning.control.value_learning import double_q_target, epsilon_greedy, q_loss
from plasticity_lightning.errors import UserError
from plasticity_lightning.modules.control_loop import ControlLoop
from plasticity_lightning.modules.control_options import EnvironmentOptions, LoopOptions, ReplayOptions
from plasticity_lightning.networks.pixel_value import DuelingValueNetwork
from plasticity_lightning.runtime.hyperparameters import save_plain_hyperparameters

__all__ = ["DiscreteControl"]


class DiscreteControl(ControlLoop):
    """The DrQ(eps) agent.

    Args:
        environment: which environments; their actions must be discrete.
        replay: what is kept and how batches are drawn; the published settings are those of the recipe.
        loop: when the agent explores, learns and is evaluated.
        width: factor on the channels of the network.
        hidden: units of its dense layer.
        epsilon: probability of a random action over the steps since learning began: a number or
            `linear(start, end, steps)`; before, actions are random.
        evaluation_epsilon: the same in evaluations.
        intensity: scale of the random intensity; 0 leaves it out. It is switched on and off with the random shift.
        tau: step of the target network towards the learning one, in (0, 1]; 1 copies it.
        optimizer: factory.
        gradient_clip: largest norm of the gradient; None does not clip.

    Raises:
        ValueError: if an argument is out of range.
        UserError: if the environment's actions are continuous.
    """

    pixels = "uint8"

    def __init__(
        self,
        environment: EnvironmentOptions = EnvironmentOptions(),  # noqa: B008 - frozen, and the CLI shows its fields
        replay: ReplayOptions = ReplayOptions(),  # noqa: B008
        loop: LoopOptions = LoopOptions(),  # noqa: B008
        width: float = 1.0,
        hidden: int = 512,
        epsilon: str | float = "linear(1.0, 0.01, 5000)",
        evaluation_epsilon: float = 0.001,
        intensity: float = 0.05,
        tau: float = 1.0,
        optimizer: Callable[[Iterable[Any]], Optimizer] = lambda p: Adam(p, lr=1e-4, eps=1.5e-4, fused=True),
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__(environment, replay, loop)
        if not isinstance(self.actions, DiscreteActions):
            raise UserError(
                f"environment {self.environment_options.name!r} has continuous actions; train it with VisualControl"
            )
        if not (0 < tau <= 1 and 0 <= evaluation_epsilon <= 1 and intensity >= 0):
            raise ValueError(
                f"tau={tau} must lie in (0, 1], evaluation_epsilon={evaluation_epsilon} in [0, 1], and "
                f"intensity={intensity} must not be negative"
            )
        # factories are functions, which checkpoints read with weights_only=True cannot hold
        save_plain_hyperparameters(self, ignore=["optimizer"])
        self.network = DuelingValueNetwork(self.observation_shape, self.actions.n, width, hidden)
        self.network.to(memory_format=torch.channels_last)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.epsilon, self.evaluation_epsilon = parse_schedule(epsilon), evaluation_epsilon
        self.intensity, self.tau, self.optimizer, self.gradient_clip = intensity, tau, optimizer, gradient_clip

    def configure_optimizers(self) -> Optimizer:
        """The one optimiser."""
        return self.optimizer(self.network.parameters())

    def plasticity_groups(self) -> dict[str, nn.Module | list[nn.Module]]:
        """What a monitor measures."""
        return {"encoder": self.network.encoder, "head": self.network.head}

    def start_agent(self) -> None:
        """Generators of exploration and intensity; the target follows a network that a callback has rebuilt."""
        self._exploration = torch.Generator(self.device).manual_seed(self.seed_for("epsilon-greedy"))
        self._brightness = torch.Generator(self.device).manual_seed(self.seed_for("intensity"))
        if self.steps == 0:
            self.target.load_state_dict(self.network.state_dict())

    def networks(self) -> list[nn.Module]:
        """What may be compiled."""
        return [self.network, self.target]

    def generators(self) -> dict[str, torch.Generator]:
        """Of exploration and intensity."""
        return {"exploration": self._exploration, "intensity": self._brightness}

    def branches(self) -> Hashable:
        """Whether intensities are random."""
        return self.augmenting

    def act(self, observation: Tensor, explore: bool) -> Tensor:
        """Actions int64 [E] for observations uint8 [E, S C, H, W]."""
        q = self.network(self._scaled(observation))
        epsilon = self.epsilon(self.steps - self.loop_options.learning_starts) if explore else self.evaluation_epsilon
        generator = self._exploration if explore else self.evaluation_generator
        draw = torch.rand(len(q), generator=generator, device=self.device)
        random_action = torch.randint(q.shape[1], (len(q),), generator=generator, device=self.device)
        return epsilon_greedy(q, epsilon, draw, random_action)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update: values towards the double Q-learning target, then the target network."""
        obs, next_obs = (self._augmented(self._scaled(x)) for x in (batch.obs, batch.next_obs))
        with torch.no_grad():
            target = double_q_target(batch.reward, batch.discount, self.network(next_obs), self.target(next_obs))
        q = self.network(obs)
        loss = q_loss(q, batch.action, target)
        self.descend(loss, self.all_optimizers(), self.gradient_clip)
        soft_update(self.target, self.network, self.tau)
        return {"loss": loss.detach(), "q": q.detach().mean(), "reward": batch.reward.mean()}

    def _augmented(self, frames: Tensor) -> Tensor:
        if not self.intensity or not self.augmenting:
            return frames
        noise = torch.randn(len(frames), generator=self._brightness, device=frames.device)
        return random_intensity(frames, noise, self.intensity)

    def _scaled(self, observation: Tensor) -> Tensor:
        return observation.to(cast(torch.dtype, self.dtype)).contiguous(memory_format=torch.channels_last) / 255
