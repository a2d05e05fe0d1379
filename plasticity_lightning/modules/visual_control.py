"""DrQ-v2: continuous control from pixels, and the agent of the adaptive replay ratio.

Read from top to bottom: networks and optimisers, `act`, then one `update` in the order of the published code: critic
and encoder learn from an n-step target, the actor from the critic's opinion on the same features, the target critic
follows. The loop around it is `ControlLoop`, the mathematics `control.actor_critic`, the networks
`networks.pixel_actor_critic`. Observations are [B, S C, H, W], actions [B, A] in [-1, 1].

Sources: Yarats et al. 2021, "Mastering Visual Continuous Control" (DrQ-v2); Ma et al. 2024, "Revisiting Plasticity in
Visual Reinforcement Learning" (adaptive replay ratio: the callback `AdaptiveReplayRatio`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from plasticity_lightning.control.actor_critic import (
    actor_loss,
    bootstrapped_target,
    critic_loss,
    noisy_action,
    soft_update,
)
from plasticity_lightning.control.environments.contract import ContinuousActions
from plasticity_lightning.control.exploration import parse_schedule
from plasticity_lightning.control.replay import Batch
from plasticity_lightning.errors import UserError
from plasticity_lightning.modules.control_loop import ControlLoop
from plasticity_lightning.modules.control_options import EnvironmentOptions, LoopOptions, ReplayOptions
from plasticity_lightning.networks.pixel_actor_critic import PixelActor, PixelEncoder, TwinCritic
from plasticity_lightning.runtime.hyperparameters import save_plain_hyperparameters
from plasticity_lightning.runtime.overlap import uncounted

__all__ = ["VisualControl"]

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


class VisualControl(ControlLoop):
    """The DrQ-v2 agent.

    Args:
        environment: which environments; their actions must be continuous.
        replay: what is kept and how batches are drawn.
        loop: when the agent explores, learns and is evaluated.
        channels: feature maps of each convolution of the encoder.
        trunk: units of the normalised bottleneck of actor and critic.
        hidden: units of the hidden layers of actor and critic.
        stddev: of the exploration noise over environment steps: a number or `linear(start, end, steps)`.
        noise_clip: bound of the noise in updates; acting is not bounded.
        tau: step of the target critic towards the critic, in (0, 1].
        optimizer: factory of all three optimisers.
        encoder_optimizer: another one for the encoder.
        actor_optimizer: another one for the actor.
        critic_optimizer: another one for the critic.
        gradient_clip: largest norm of the gradients of each optimiser; None does not clip.
        encoder_from: checkpoint of a `VisualControl` whose encoder this one starts with.
        freeze_encoder: the encoder does not learn.

    Raises:
        ValueError: if an argument is out of range, or the frames are too small for the encoder.
        UserError: if the environment's actions are discrete, or `encoder_from` has no encoder of this shape.
    """

    def __init__(
        self,
        environment: EnvironmentOptions = EnvironmentOptions(),  # noqa: B008 - frozen, and the CLI shows its fields
        replay: ReplayOptions = ReplayOptions(),  # noqa: B008
        loop: LoopOptions = LoopOptions(),  # noqa: B008
        channels: int = 32,
        trunk: int = 50,
        hidden: int = 1024,
        stddev: str | float = "linear(1.0, 0.1, 100000)",
        noise_clip: float = 0.3,
        tau: float = 0.01,
        optimizer: OptimizerFactory = lambda parameters: Adam(parameters, lr=1e-4, fused=True),
        encoder_optimizer: OptimizerFactory | None = None,
        actor_optimizer: OptimizerFactory | None = None,
        critic_optimizer: OptimizerFactory | None = None,
        gradient_clip: float | None = None,
        encoder_from: str | None = None,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__(environment, replay, loop)
        if not isinstance(self.actions, ContinuousActions):
            raise UserError(
                f"environment {self.environment_options.name!r} has discrete actions; train it with DiscreteControl"
            )
        if not 0 < tau <= 1:
            raise ValueError(f"tau={tau} must lie in (0, 1]")
        if noise_clip <= 0 or (gradient_clip is not None and gradient_clip <= 0):
            raise ValueError(f"noise_clip={noise_clip} and gradient_clip={gradient_clip} must be positive")
        # factories are functions, which checkpoints read with weights_only=True cannot hold
        ignored = ["optimizer", "encoder_optimizer", "actor_optimizer", "critic_optimizer", "encoder_from"]
        save_plain_hyperparameters(self, ignore=ignored)
        self.encoder = PixelEncoder(self.observation_shape, channels)
        self.actor = PixelActor(self.encoder.features, self.actions.dim, trunk, hidden)
        self.critic = TwinCritic(self.encoder.features, self.actions.dim, trunk, hidden)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.encoder.to(memory_format=torch.channels_last)
        self.stddev, self.noise_clip, self.tau, self.gradient_clip = (
            parse_schedule(stddev),
            noise_clip,
            tau,
            gradient_clip,
        )
        self._factories = [given or optimizer for given in (encoder_optimizer, actor_optimizer, critic_optimizer)]
        if encoder_from is not None:
            _load_encoder(self.encoder, encoder_from)
        self.learns_encoder = not freeze_encoder
        self.encoder.requires_grad_(self.learns_encoder)

    def configure_optimizers(self) -> list[Optimizer]:
        """Critic, actor and, unless it is frozen, encoder."""
        encoder, actor, critic = self._factories
        found = [critic(self.critic.parameters()), actor(self.actor.parameters())]
        return [*found, encoder(self.encoder.parameters())] if self.learns_encoder else found

    def plasticity_groups(self) -> dict[str, nn.Module | list[nn.Module]]:
        """What a monitor measures; the trunks' Tanh is no ReLU and does not count for the fraction of active units."""
        return {"encoder": self.encoder, "actor": self.actor, "critic": self.critic}

    def start_agent(self) -> None:
        """Generators of the noise; the target follows a critic that a callback has rebuilt at `setup`."""
        self._noise = torch.Generator(self.device).manual_seed(self.seed_for("target and actor noise"))
        self._exploration = torch.Generator(self.device).manual_seed(self.seed_for("exploration noise"))
        # on the device, where recorded updates read it
        self._sigma = torch.zeros(
            (), dtype=torch.promote_types(cast(torch.dtype, self.dtype), torch.float32), device=self.device
        )
        self.before_updates()
        if self.steps == 0:
            self.target_critic.load_state_dict(self.critic.state_dict())

    def networks(self) -> list[nn.Module]:
        """What may be compiled."""
        return [self.encoder, self.actor, self.critic, self.target_critic]

    def generators(self) -> dict[str, torch.Generator]:
        """Noise in updates and when acting."""
        return {"noise": self._noise, "exploration": self._exploration}

    def before_updates(self) -> None:
        """Sigma of this step."""
        self._sigma.fill_(self.stddev(self.steps))

    def act(self, observation: Tensor, explore: bool) -> Tensor:
        """Actions [E, A] for observations uint8 [E, S C, H, W]."""
        scaled = observation.to(self.dtype).contiguous(memory_format=torch.channels_last) / 255 - 0.5
        mean = self.actor(self.encoder(scaled)).float()
        if not explore:
            return mean
        noise = torch.randn(mean.shape, generator=self._exploration, device=self.device)
        return noisy_action(mean, self.stddev(self.steps), noise)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update of all networks."""
        with torch.set_grad_enabled(self.learns_encoder):
            encoded = self.encoder(batch.obs)
        with torch.no_grad():
            next_encoded = self.encoder(batch.next_obs)
        logs = self.update_critic(encoded, batch.action, batch.reward[:, None], batch.discount[:, None], next_encoded)
        # the actor learns from the features of before the encoder's step, without a gradient to them
        logs |= self.update_actor(encoded.detach())
        soft_update(self.target_critic, self.critic, self.tau)
        return logs

    def update_critic(
        self, encoded: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_encoded: Tensor
    ) -> dict[str, Tensor]:
        """Critic and encoder towards the n-step target; shapes [B, F], [B, A], [B, 1], [B, 1], [B, F]."""
        with torch.no_grad():
            next_action = self._noisy(self.actor(next_encoded))
            target = bootstrapped_target(reward, discount, *self.target_critic(next_encoded, next_action))
        q1, q2 = self.critic(encoded, action)
        loss = critic_loss(q1, q2, target)
        self.descend(loss, self.all_optimizers()[::2], self.gradient_clip)  # critic and encoder
        return {"critic_loss": loss.detach(), "q": q1.detach().mean(), "reward": reward.mean()}

    def update_actor(self, encoded: Tensor) -> dict[str, Tensor]:
        """Actor towards actions that the critic, as it is now, values more; features [B, F] without a graph."""
        action = self._noisy(self.actor(encoded))
        with uncounted(), _frozen(self.critic):  # its gradients are not wanted, its activity was measured on the batch
            loss = actor_loss(*self.critic(encoded, action))
        self.descend(loss, self.all_optimizers()[1:2], self.gradient_clip)
        return {"actor_loss": loss.detach()}

    def _noisy(self, mean: Tensor) -> Tensor:
        noise = torch.randn(mean.shape, generator=self._noise, device=mean.device, dtype=mean.dtype)
        return noisy_action(mean, self._sigma, noise, self.noise_clip)


class _frozen:  # noqa: N801 - reads as a verb where it is used
    """The parameters of a module get no gradient inside."""

    def __init__(self, module: nn.Module) -> None:
        self._learning = [p for p in module.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._learning:
            parameter.requires_grad_(False)

    def __exit__(self, *exception: object) -> None:
        for parameter in self._learning:
            parameter.requires_grad_(True)


def _load_encoder(encoder: PixelEncoder, path: str) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except FileNotFoundError as error:
        raise UserError(f"encoder_from={path!r}: no such file") from error
    weights = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"encoder_from={path!r} has no encoder of this shape: {error}") from error
