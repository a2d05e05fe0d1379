"""The training loop of visual control inside the Trainer; it knows no agent.

One Trainer batch is a tick: the agent acts on what it sees, the environments begin to step, the updates that the replay
ratio owes run meanwhile, then the steps are fetched and stored. The action is fixed before the updates, as in DrQ-v2's
code, so the overlap changes nothing. Evaluation episodes are the validation loop. A subclass is an agent: it says how
to `act` and how to `update` from a batch of transitions.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from plasticity_lightning.control.environments.collector import Collector
from plasticity_lightning.control.environments.contract import Actions
from plasticity_lightning.control.environments.frame_stack import FrameStack
from plasticity_lightning.control.environments.steps import Steps
from plasticity_lightning.control.replay import Batch, FrameReplay
from plasticity_lightning.control.replay.pixels import PixelType
from plasticity_lightning.control.update_credit import UpdateCredit
from plasticity_lightning.errors import UserError
from plasticity_lightning.interventions.initialise import derive_seed
from plasticity_lightning.modules.control_evaluation import Episode, EvaluationEpisodes
from plasticity_lightning.modules.control_options import EnvironmentOptions, LoopOptions, ReplayOptions
from plasticity_lightning.modules.replay_folder import ReplayFolder
from plasticity_lightning.runtime.clock import logging_due
from plasticity_lightning.runtime.hyperparameters import from_hyperparameter
from plasticity_lightning.runtime.static_updates import (
    StaticUpdates,
    addresses,
    plain_optimizer_states,
    prepare_optimizers,
)
from plasticity_lightning.runtime.ticks import TickLoader
from plasticity_lightning.runtime.watching import watcher_of_updates

__all__ = ["ControlLoop"]


class ControlLoop(LightningModule, ABC):
    """Environments, replay and replay ratio around an agent; subclasses implement `act` and `update`.

    Args:
        environment: which environments; each of the three may be a dict of its fields, as a checkpoint holds it.
        replay: what is kept of them.
        loop: when to explore, learn and evaluate.

    Attributes:
        replay_ratio: updates per environment step; may be set at any time.
        record_scenes: side in pixels of the scenes to keep of the next evaluation's first episode; 0 keeps none.
        evaluation_generator: random generator for agents that draw in evaluations.

    Logs:
        `train/return` of each finished episode; every `log_every_n_steps` ticks means of what `update` returns,
        `replay_ratio`, `frames`, `updates_per_second`, `frames_per_second`; `eval/return`, `eval/episode_steps`. The
        x-axis counts frames.

    Raises:
        UserError: if there is no such environment.
        ValueError: if n_step is longer than an episode.
    """

    in_memory = True  # it makes its own data: worker processes have nothing to do
    pixels: PixelType = "float32"

    def __init__(self, environment: EnvironmentOptions, replay: ReplayOptions, loop: LoopOptions) -> None:
        super().__init__()
        self.automatic_optimization = False
        environment = from_hyperparameter(EnvironmentOptions, environment)
        replay, loop = from_hyperparameter(ReplayOptions, replay), from_hyperparameter(LoopOptions, loop)
        self.environment_options, self.replay_options, self.loop_options = environment, replay, loop
        probe = environment.spec.make(loop.seed)
        self.actions: Actions = probe.actions
        self.frame_shape, self.frames_per_step = probe.frame_shape, probe.frames_per_step
        self.episode_steps = probe.episode_steps
        probe.close()
        if self.episode_steps is not None and replay.n_step > self.episode_steps:
            raise ValueError(
                f"n_step={replay.n_step} is longer than an episode of {environment.name}, {self.episode_steps} steps"
            )
        channels, height, width = self.frame_shape
        self.observation_shape = (environment.stack * channels, height, width)
        self.steps = self.updates = self.episodes = self.evaluations = 0
        self.credit = UpdateCredit(loop.replay_ratio)
        self.record_scenes = 0
        self._recorded: Tensor | None = None
        self._collector: Collector | None = None
        self._evaluator: EvaluationEpisodes | None = None
        self._static: StaticUpdates[Batch] | None = None
        self._in_static = False
        self._in_tick = False
        self._final_states: list[Any] | None = None
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self._last_return = float("nan")
        self._restored: dict[str, Any] | None = None

    # what an agent is

    @abstractmethod
    def act(self, observation: Tensor, explore: bool) -> Tensor:
        """Actions for observations uint8 [E, C, H, W] on the module's device: with exploration noise, or the best."""

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from a batch on the module's device, with one step of each optimiser; scalars to be averaged and logged.

        Nothing in it may wait for the device, and what it branches on in Python must be in `branches`.
        """

    def before_updates(self) -> None:
        """Before the updates of a tick: write what changes from tick to tick into tensors that `update` reads."""

    def branches(self) -> Hashable:
        """What `update` branches on besides the module's arguments: a recorded one is used again while it is equal."""
        return None

    def start_agent(self) -> None:
        """Make what belongs to a run, random generators for instance; before a checkpoint's states are restored."""

    def networks(self) -> list[nn.Module]:
        """The networks that `act` and `update` call, for `LoopOptions.compile`."""
        return []

    def generators(self) -> dict[str, torch.Generator]:
        """The agent's own random generators by name, for the checkpoint."""
        return {}

    # what a Callback may use

    @property
    def replay_ratio(self) -> float:
        """Updates per environment step."""
        return self.credit.replay_ratio

    @replay_ratio.setter
    def replay_ratio(self, value: float) -> None:
        self.credit.replay_ratio = value

    @property
    def augmenting(self) -> bool:
        """Whether batches are augmented at this step."""
        start, end = self.replay_options.augment_from, self.replay_options.augment_until
        return start <= self.steps and (end is None or self.steps < end)

    def progress(self) -> dict[str, int]:
        """Frames, environment steps, updates and finished episodes of this rank so far."""
        frame = self.steps * self.frames_per_step
        return {"frame": frame, "step": self.steps, "update": self.updates, "episode": self.episodes}

    def recorded_scenes(self) -> Tensor | None:
        """Pictures uint8 [T, H, W, 3] of the last evaluation's first episode, None if they were not asked for."""
        return self._recorded

    # the loop

    def train_dataloader(self) -> TickLoader:
        """Ticks."""
        return TickLoader(self.loop_options.ticks_per_epoch)

    def val_dataloader(self) -> DataLoader[Any]:
        """Numbers of evaluation episodes."""
        return DataLoader(range(self.loop_options.evaluation_episodes), batch_size=1)  # type: ignore[arg-type]

    test_dataloader = predict_dataloader = val_dataloader

    def on_train_start(self) -> None:
        """Start environments and replay, or take them up where the checkpoint left them."""
        options = self.environment_options
        seeds = [self.seed_for(f"environment {i}") for i in range(options.number)]
        self._collector, self._final_states = Collector(options.spec, seeds, options.mode), None
        self._stack = FrameStack(options.stack, options.padding)
        self._replay = self._make_replay()
        self._folder = ReplayFolder(self.trainer, self._replay)
        if self.replay_options.checkpoint and self.trainer.checkpoint_callbacks:
            self._folder.check_disk()
        self._uniform = np.random.default_rng(self.seed_for("uniform actions"))
        self._returns = np.zeros(options.number)
        self._collected = 0  # steps that the replay has seen
        self.start_agent()
        if self.loop_options.compile == "graph":
            self._prepare_static_updates()
        elif self.loop_options.compile != "none":
            mode = None if self.loop_options.compile == "default" else self.loop_options.compile
            for network in self.networks():
                network.compile(mode=mode)  # in place: names in checkpoints stay as they are
        restored, self._restored = self._restored, None
        if restored is None:
            self._begin_episodes()
        else:
            self._restore(restored)
        self._clock, self._clock_steps, self._clock_updates = time.perf_counter(), self.steps, self.updates

    def training_step(self, batch: int, batch_idx: int) -> None:
        """One tick: act, let the environments step, update meanwhile, store."""
        assert self._collector is not None
        self._in_tick = True
        try:
            self._collector.submit(self._choose_actions())
            self._learn()
            self._store(self._collector.result())
        except BaseException:
            self._close()  # Lightning tells a module neither of an exception nor of its end
            raise
        self._in_tick = False
        if logging_due(self.trainer):
            self._report()

    def _choose_actions(self) -> np.ndarray:
        if self.steps < self.loop_options.random_steps:
            return self.actions.sample(self._uniform, self.environment_options.number)
        return self._act(self._stack.observation, explore=True)

    def _act(self, observation: np.ndarray, explore: bool) -> np.ndarray:
        with torch.no_grad():
            action = self.act(torch.from_numpy(observation).to(self.device), explore)
        return (action.float() if action.is_floating_point() else action).cpu().numpy()

    def _learn(self) -> None:
        if self._collected < self.loop_options.learning_starts:
            return
        self._replay.augment = self.augmenting
        self.before_updates()
        batches = self._batches(self.credit.take(self.environment_options.number))
        if self._static is not None and watcher_of_updates(self.trainer, self) is None:
            self._launch(self._static, batches)
            return
        for batch in batches:
            if self.loop_options.compile == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()  # results of the update before may be overwritten
            self._count(1, self.update(batch.to(self.device)))

    def _launch(self, static: StaticUpdates[Batch], batches: Iterator[Batch]) -> None:
        optimizers = self.trainer.optimizers
        valid = addresses(self, optimizers)
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        while together := list(islice(batches, self.loop_options.updates_per_launch)):
            self._in_static = True
            try:
                sums = static([batch.to(self.device) for batch in together], valid, self.branches())
            finally:
                self._in_static = False
            for _ in range(len(together) * len(optimizers)):  # the wrappers of the optimisers count in Python
                progress.increment_ready()
                progress.increment_completed()
            self._count(len(together), sums)
            valid = addresses(self, optimizers)  # the first step makes the optimisers' states

    def _count(self, updates: int, sums: dict[str, Tensor]) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._summed += updates
        self.updates += updates

    def _prepare_static_updates(self) -> None:
        if self.trainer.world_size > 1:
            raise UserError("compile='graph' records the updates of one process; take compile='none' with several")
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise UserError(
                "compile='graph' cannot record the loss scaling of precision='16-mixed'; take 'bf16-mixed' or '32-true'"
            )
        prepare_optimizers(self.trainer.optimizers, self.device)
        generators = [g for g in self.generators().values() if g.device.type == self.device.type]
        self._static = StaticUpdates(self.update, generators)

    def _batches(self, n: int) -> Iterator[Batch]:
        size = self.replay_options.batch_size
        if self.replay_options.prefetch:
            return self._replay.batches(n, size)
        return (self._replay.sample(size) for _ in range(n))

    def _store(self, steps: Steps) -> None:
        self._replay.add(steps)
        self._stack.push(steps)
        self.steps += len(steps.last)
        self._collected += len(steps.last)
        self._returns += steps.reward
        for i in np.flatnonzero(steps.last):
            self.episodes += 1
            self._last_return = float(self._returns[i])
            self._returns[i] = 0
            self._log_at_frame({"train/return": self._last_return})

    def _begin_episodes(self) -> None:
        assert self._collector is not None
        frames = self._collector.reset()
        self._stack.reset(frames)
        self._replay.start(frames)
        self._returns[:] = 0

    def _make_replay(self) -> FrameReplay:
        options, environment = self.replay_options, self.environment_options
        return FrameReplay(
            self.frame_shape,
            self.actions,
            options.capacity,
            n_environments=environment.number,
            stack=environment.stack,
            n_step=options.n_step,
            gamma=options.discount,
            pad=options.pad,
            seed=self.seed_for("replay"),
            storage=options.storage,
            device=self.device,
            dtype=self.pixels,
            order=options.order,
            tail=options.tail,
            padding=environment.padding,
            threads=options.threads,
            episode_steps=self.episode_steps,
        )

    def seed_for(self, name: str) -> int:
        """A seed for one random choice of this rank."""
        return derive_seed(self.loop_options.seed, self.global_rank, name)

    def all_optimizers(self) -> list[Any]:
        """The optimisers in the order of `configure_optimizers`, wrapped by the Trainer, so that hooks and counters work."""
        found = self.optimizers(use_pl_optimizer=not self._in_static)
        return found if isinstance(found, list) else [cast(Any, found)]

    def descend(self, loss: Tensor, optimizers: list[Any], gradient_clip: float | None = None) -> None:
        """Follow the gradient of `loss` with some of the optimisers, each clipped on its own."""
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        for optimizer in optimizers:
            if gradient_clip is not None:
                self.clip_gradients(optimizer, gradient_clip, "norm")
            optimizer.step()

    # reports

    def _report(self) -> None:
        now = time.perf_counter()
        seconds = max(now - self._clock, 1e-9)
        values: dict[str, Any] = {name: total / self._summed for name, total in self._sums.items()}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)
        shown = {
            "frames": float(self.steps * self.frames_per_step),
            "replay_ratio": self.replay_ratio,
            "updates_per_second": (self.updates - self._clock_updates) / seconds,
        }
        self.log_dict(shown, prog_bar=True, batch_size=1)
        # the loggers had it when the episode ended
        self.log("train/return", self._last_return, prog_bar=True, logger=False, batch_size=1)
        frames = (self.steps - self._clock_steps) * self.frames_per_step
        # the key `step` is what loggers take for the x-axis
        self.log_dict({"frames_per_second": frames / seconds, "step": shown["frames"]}, batch_size=1)
        self._clock, self._clock_steps, self._clock_updates = now, self.steps, self.updates
        self._sums, self._summed = {}, 0

    def _log_at_frame(self, values: dict[str, float]) -> None:
        """To the loggers at once: between two logging ticks `self.log` would drop all but the last episode."""
        for logger in self.trainer.loggers if self.trainer.is_global_zero else ():
            logger.log_metrics(values, step=self.steps * self.frames_per_step)

    # evaluation

    def on_validation_start(self) -> None:
        """Environments for one evaluation, with starts that no other evaluation has."""
        self._close_evaluator()
        self._recorded = None
        seed = derive_seed(self.loop_options.seed, self.evaluations, f"evaluation {self.global_rank}")
        self.evaluation_generator = torch.Generator(self.device).manual_seed(seed)
        self._evaluator_seed = seed

    on_test_start = on_predict_start = on_validation_start

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Play an episode."""
        self._evaluate("eval")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Play an episode."""
        self._evaluate("test")

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Any]:
        """Play an episode; its return, actions and rewards."""
        episode = self.play()
        return {"return": episode.score, "actions": episode.actions, "rewards": episode.rewards}

    def on_validation_epoch_end(self) -> None:
        """Close the environments of the evaluation and write its mean return at the frame."""
        self._close_evaluator()
        if self.trainer.sanity_checking:
            return
        self.evaluations += 1
        if not self._training_goes_on():
            return
        metrics = self.trainer.callback_metrics
        names = [name for name in ("eval/return", "eval/episode_steps") if name in metrics]
        self._log_at_frame({name: float(metrics[name]) for name in names})

    def on_test_end(self) -> None:
        """Close the environments of the evaluation."""
        self._close_evaluator()

    on_predict_end = on_test_end

    def play(self) -> Episode:
        """One episode with the agent's best actions, on an environment of its own."""
        if self._evaluator is None:
            self._evaluator = EvaluationEpisodes(self.environment_options, self._evaluator_seed)
        episode = self._evaluator.play(lambda seen: self._act(seen, explore=False), self.record_scenes)
        self._recorded = self._evaluator.scenes
        return episode

    def _evaluate(self, stage: str) -> None:
        episode = self.play()
        values = {f"{stage}/return": episode.score, f"{stage}/episode_steps": float(episode.steps)}
        # within a fit the loggers get the mean at its frame, see `on_validation_epoch_end`
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True}
        alone = not self._training_goes_on()
        self.log_dict(values, logger=alone, **options)
        if alone:  # Lightning's name for where on the x-axis the others are written
            self.log("step", float(self.steps * self.frames_per_step), logger=True, reduce_fx="max", **options)

    def _training_goes_on(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING

    # checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Everything that the future depends on; one entry a rank."""
        if self._restored is not None or (self._collector is None and not hasattr(self, "_replay")):
            return
        states: list[Any] = [self._state()]
        if self.trainer.world_size > 1:
            states = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(states, self._state())
        checkpoint["control"] = states
        if self.loop_options.compile == "graph":
            plain_optimizer_states(checkpoint["optimizer_states"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Counters at once; environments and replay when training starts."""
        states = checkpoint.get("control")
        if not states:
            return
        self.evaluations, self.steps = states[0]["evaluations"], states[0]["steps"]
        if self._trainer is None or not self.trainer.training:
            return
        if len(states) != self.trainer.world_size:
            raise MisconfigurationException(
                f"the checkpoint holds environments and replays of {len(states)} ranks, this run has "
                f"{self.trainer.world_size}; resume with devices={len(states)}"
            )
        self._restored = states[self.global_rank]

    def _state(self) -> dict[str, Any]:
        # in the middle of a tick, after an exception, the environments are lost; what was learnt is not
        resumable = self._collector is not None and self._collector.resumable and not self._in_tick
        states = self._collector.state() if self._collector is not None and resumable else None
        return {
            "steps": self.steps,
            "updates": self.updates,
            "episodes": self.episodes,
            "evaluations": self.evaluations,
            "credit": self.credit.state_dict(),
            "replay_ratio": self.loop_options.replay_ratio,
            "collected": self._collected if self.replay_options.checkpoint else 0,
            "returns": self._returns.tolist(),
            "last_return": self._last_return,
            "sums": {name: value.detach().cpu() for name, value in self._sums.items()},
            "summed": self._summed,
            "uniform": self._uniform.bit_generator.state,
            "generators": {name: generator.get_state() for name, generator in self.generators().items()},
            "replay": self._replay.state(),
            "content": self._folder.save() if self.replay_options.checkpoint else None,
            "environments": self._final_states if states is None else states,
            "stack": torch.from_numpy(self._stack.state()),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        assert self._collector is not None
        for name in ("steps", "updates", "episodes", "evaluations"):
            setattr(self, name, state[name])
        self.credit.load_state_dict(state["credit"])
        # the ratio is the present one, which a callback may have set, unless another was asked for
        if state["replay_ratio"] != self.loop_options.replay_ratio:
            self.replay_ratio = self.loop_options.replay_ratio
        self._collected, self._returns = state["collected"], np.array(state["returns"])
        self._last_return = state["last_return"]
        self._sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self._summed = state["summed"]
        self._uniform.bit_generator.state = state["uniform"]
        for name, generator in self.generators().items():
            generator.set_state(state["generators"][name].cpu())
        self._replay.set_state(state["replay"])
        content = state["content"] if self.replay_options.checkpoint else None
        if content is not None:
            self._folder.load(content)
        else:
            self._collected = 0
        if state["environments"] is not None:
            self._collector.set_state(state["environments"])
            self._stack.set_state(state["stack"].numpy())
        if state["environments"] is None or content is None:
            rank_zero_info("the checkpoint lacks environments or replay: new episodes begin, the resume is not exact")
            self._begin_episodes()

    # the end

    def teardown(self, stage: str) -> None:
        """End the environments; a checkpoint may be saved afterwards."""
        if self._collector is not None and self._collector.resumable and not self._in_tick:
            self._final_states = self._collector.state()
        self._close()
        self._close_evaluator()

    def _close(self) -> None:
        if self._collector is not None:
            self._collector.close()
            self._collector = None

    def _close_evaluator(self) -> None:
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None
