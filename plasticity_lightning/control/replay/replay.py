"""Replay of frames: every frame once, as uint8, in a ring an environment; batches drawn, stacked, shifted in one pass.

A transition is an observation (the last `stack` frames), the action after it, the n-step return, its discount and the
observation n steps on. Its return never crosses the end of an episode: at a true termination the discount is 0, at a
time limit the learner bootstraps from the last frame. Sources: Yarats et al. 2022 (DrQ-v2; n-step, random shift, the
order "episode, then index"); the sums are the published code's to the bit.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from plasticity_lightning.control.environments.contract import Actions
from plasticity_lightning.control.environments.frame_stack import Padding
from plasticity_lightning.control.environments.steps import Steps
from plasticity_lightning.control.replay.limits import check_room
from plasticity_lightning.errors import UserError

__all__ = ["Batch", "Draw", "FrameReplay", "Order", "PixelType", "Storage", "Tail"]

Storage = Literal["memory", "memmap", "device"]
Order = Literal["transition", "episode"]
Tail = Literal["full", "short"]
PixelType = Literal["uint8", "float32", "bfloat16"]

_TORCH = {"uint8": torch.uint8, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Draw:
    """Which transitions a batch holds, before anything is read.

    Args:
        stream: int64 [B], the environment.
        slot: int64 [B], the slot of the observation's newest frame.
        shift: int64 [2, B, 2], rows and columns of the random shift of obs and next_obs, in 0..2 pad.
    """

    stream: np.ndarray
    slot: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Batch:
    """B transitions.

    Args:
        obs: [B, S * C, H, W] in channels_last memory; x/255 - 0.5, or uint8 as it was.
        action: float32 [B, A] or int64 [B].
        reward: float32 [B], n-step return.
        discount: float32 [B], gamma^n times the environment's discounts; 0 at a true termination.
        next_obs: as obs, n steps on.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same on `device`; itself if it is there."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))


class FrameReplay:
    """See the module's text.

    Args:
        frame_shape: (C, H, W) of one frame.
        actions: the environments' action spec.
        capacity: frames kept over all environments together; each has `capacity // n_environments` of them.
        n_environments: E, environments whose steps come interleaved.
        stack: frames an observation.
        n_step: steps of a transition.
        gamma: discount a step.
        pad: width of the repeated edge of the random shift, in pixels; 0 shifts nothing.
        seed: of the two generators of this replay, one for transitions and one for shifts.
        storage: "memory", "memmap" (a file in `folder`, which disappears with the process) or "device".
        folder: of the memmap; None takes the system's temporary folder.
        device: of storage "device"; batches are made there.
        dtype: of the batch's pixels; "uint8" leaves them as they are, the others are x/255 - 0.5.
        order: "transition" draws uniformly over transitions; "episode" a finished episode first, then a transition of
            it, as the published code does.
        tail: "full" draws only transitions of n steps, as DrQ-v2 does; "short" also those that the end of the episode
            cuts, as Dopamine does.
        padding: what stands before an episode's first frame, see `FrameStack`.
        threads: that fill a batch.

    Attributes:
        augment: whether batches are shifted; may be changed at any time and changes no other random choice.

    Raises:
        ValueError: if an argument is out of range.
        UserError: if the replay does not fit; the message says what would.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        actions: Actions,
        capacity: int,
        *,
        n_environments: int = 1,
        stack: int = 3,
        n_step: int = 3,
        gamma: float = 0.99,
        pad: int = 4,
        seed: int = 0,
        storage: Storage = "memory",
        folder: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: PixelType = "float32",
        order: Order = "transition",
        tail: Tail = "full",
        padding: Padding = "repeat",
        threads: int = 1,
    ) -> None:
        for argument, value, least in (
            ("n_environments", n_environments, 1),
            ("stack", stack, 1),
            ("n_step", n_step, 1),
            ("pad", pad, 0),
            ("threads", threads, 1),
        ):
            if value < least:
                raise ValueError(f"{argument}={value} must be at least {least}")
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma={gamma} must lie in (0, 1]")
        for argument, choice, choices in (
            ("storage", storage, ("memory", "memmap", "device")),
            ("dtype", dtype, tuple(_TORCH)),
            ("order", order, ("transition", "episode")),
            ("tail", tail, ("full", "short")),
            ("padding", padding, ("repeat", "zero")),
        ):
            if choice not in choices:
                raise ValueError(f"{argument}={choice!r} must be one of {', '.join(choices)}")
        length = capacity // n_environments
        if length < stack + n_step:
            raise ValueError(
                f"capacity={capacity} gives {length} frames to each of {n_environments} environments; "
                f"one transition takes {stack + n_step} (stack={stack}, n_step={n_step})"
            )
        self.frame_shape, self.actions, self.n, self.length = frame_shape, actions, n_environments, length
        self.stack, self.n_step, self.gamma, self.pad = stack, n_step, gamma, pad
        self.storage, self.device, self.dtype = storage, torch.device(device if storage == "device" else "cpu"), dtype
        self.order, self.tail, self.padding, self.threads = order, tail, padding, threads
        self.augment = True
        self._pool: ThreadPoolExecutor | None = None
        c, h, w = frame_shape
        action_bytes = np.dtype(actions.dtype).itemsize * int(np.prod(actions.shape))
        folder = Path(tempfile.gettempdir()) if folder is None else folder
        check_room(storage, c * h * w + action_bytes + 24, self.n * length, folder, self.device)
        self._frames = self._allocate((self.n, length, h, w, c), folder)
        self._action = np.zeros((self.n, length, *actions.shape), actions.dtype)
        self._reward = np.zeros((self.n, length), np.float32)
        self._discount = np.zeros((self.n, length), np.float32)
        self._start = np.zeros((self.n, length), np.int64)
        self._window = np.zeros((self.n, length), np.int64)
        self._count = np.zeros(self.n, np.int64)  # slots ever written
        self._episodes: list[tuple[int, int, int]] = []  # finished: environment, first slot, last slot
        self._size = 0
        transitions, shifts = np.random.SeedSequence(seed).spawn(2)
        self._transitions, self._shifts = np.random.default_rng(transitions), np.random.default_rng(shifts)
        pixels = torch.arange(256, dtype=torch.uint8)
        table = pixels if dtype == "uint8" else (pixels.float() / 255 - 0.5).to(_TORCH[dtype])
        self._table = (table.view(torch.uint16) if dtype == "bfloat16" else table).numpy()

    def __len__(self) -> int:
        """Number of transitions that may be drawn."""
        return self._size

    def start(self, frames: np.ndarray) -> None:
        """Every environment begins an episode with `frames` uint8 [E, C, H, W]; a running one ends without a last step."""
        for e in range(self.n):
            self._finish(e)
            self._write(e, frames[e], first=True)

    def add(self, steps: Steps) -> None:
        """Take a step of all environments; where an episode ended, also the first frame of the next.

        Raises:
            RuntimeError: before the first `start`.
        """
        if not self._count.all():
            raise RuntimeError("add: give the first frames to start() before")
        for e in range(self.n):
            self._write(
                e, steps.frame[e], steps.action[e], steps.reward[e], steps.discount[e], last=bool(steps.last[e])
            )
            if steps.last[e]:
                self._finish(e)
                self._write(e, steps.reset_frame[e], first=True)

    def sample(self, batch_size: int) -> Batch:
        """Draw and read `batch_size` transitions, with replacement."""
        return self.gather(self.draw(batch_size))

    def batches(self, n: int, batch_size: int, prefetch: bool = True) -> Iterator[Batch]:
        """The same `n` batches that `n` calls of `sample` give, the next one made in a thread while one is used.

        Nothing may be added before the last batch is taken.
        """
        if n < 1:
            return
        if not prefetch:
            for _ in range(n):
                yield self.sample(batch_size)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting: Future[Batch] = pool.submit(self.sample, batch_size)
            for _ in range(n - 1):
                batch = waiting.result()
                waiting = pool.submit(self.sample, batch_size)
                yield batch
            yield waiting.result()

    def draw(self, batch_size: int) -> Draw:
        """Choose transitions and shifts.

        Raises:
            ValueError: if batch_size < 1.
            UserError: if there is nothing to draw from.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if self._size == 0:
            raise UserError(
                f"the replay holds {int(np.minimum(self._count, self.length).sum())} frames and no transition of "
                f"n_step={self.n_step} steps: collect more, or n_step is longer than the episodes"
            )
        stream, slot = (self._draw_transitions if self.order == "transition" else self._draw_episodes)(batch_size)
        shift = self._shifts.integers(0, 2 * self.pad + 1, (2, batch_size, 2))
        return Draw(stream, slot, shift if self.augment else np.full_like(shift, self.pad))

    def gather(self, draw: Draw) -> Batch:
        """Read the transitions of `draw`."""
        from plasticity_lightning.control.replay._kernel import gather_returns  # numba is slow to import

        b = len(draw.slot)
        reward, discount, following = np.empty(b, np.float32), np.empty(b, np.float32), np.empty(b, np.int64)
        gather_returns(
            draw.stream,
            draw.slot,
            self._window,
            self._reward,
            self._discount,
            np.float32(self.gamma),
            reward,
            discount,
            following,
        )
        action = self._action[draw.stream, (draw.slot + 1) % self.length]
        return Batch(
            self._observations(draw.stream, draw.slot, draw.shift[0]),
            torch.from_numpy(action).to(self.device),
            torch.from_numpy(reward).to(self.device),
            torch.from_numpy(discount).to(self.device),
            self._observations(draw.stream, following, draw.shift[1]),
        )

    def state(self) -> dict[str, Any]:
        """States of the two generators; the content is the log's affair."""
        return {
            "transitions": self._transitions.bit_generator.state,
            "shifts": self._shifts.bit_generator.state,
            "augment": self.augment,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Draw on as the replay would have that gave `state`."""
        self._transitions.bit_generator.state = state["transitions"]
        self._shifts.bit_generator.state = state["shifts"]
        self.augment = state["augment"]

    def _allocate(self, shape: tuple[int, ...], folder: Path) -> np.ndarray | Tensor:
        if self.storage == "device":
            return torch.zeros(shape, dtype=torch.uint8, device=self.device)
        if self.storage == "memory":
            return np.zeros(shape, np.uint8)
        with tempfile.TemporaryFile(prefix="replay-", dir=folder) as file:
            # reserved now: writing to a hole of a full disk would kill the process
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))
            return np.memmap(file, np.uint8, "r+", shape=shape)

    def _write(
        self,
        e: int,
        frame: np.ndarray,
        action: np.ndarray | float = 0.0,
        reward: float = 0.0,
        discount: float = 1.0,
        *,
        first: bool = False,
        last: bool = False,
    ) -> None:
        from plasticity_lightning.control.replay._kernel import write_slot

        t = int(self._count[e])
        i = t % self.length
        image = np.ascontiguousarray(frame.transpose(1, 2, 0))
        if isinstance(self._frames, Tensor):
            self._frames[e, i] = torch.from_numpy(image)
        else:
            self._frames[e, i] = image
        self._action[e, i], self._reward[e, i], self._discount[e, i] = action, reward, discount
        self._size += write_slot(
            self._start[e], self._window[e], t, first, last, self.n_step, self.stack, self.tail == "short"
        )
        self._count[e] = t + 1

    def _finish(self, e: int) -> None:
        if self._count[e]:
            t = int(self._count[e]) - 1
            self._episodes.append((e, int(self._start[e, t % self.length]), t))
        self._episodes = [known for known in self._episodes if known[2] > self._count[known[0]] - self.length]

    def _draw_transitions(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        live = np.minimum(self._count, self.length)
        if self._size < live.sum() // 8:  # few of many: list them
            stream, place = np.nonzero(self._window)
            chosen = self._transitions.integers(0, len(place), n)
            stream, place = stream[chosen], place[chosen]
            newest = self._count[stream] - 1
            return stream, newest - (newest - place) % self.length
        ends = np.cumsum(live)
        found: list[np.ndarray] = []
        missing = n
        while missing:
            number = self._transitions.integers(0, ends[-1], missing)
            stream = np.searchsorted(ends, number, side="right")
            slot = self._count[stream] - (ends[stream] - number)
            drawable = self._window[stream, slot % self.length] > 0
            found.append(np.stack([stream[drawable], slot[drawable]]))
            missing -= int(drawable.sum())
        stream, slot = np.concatenate(found, axis=1)
        return stream, slot

    def _draw_episodes(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        ranges = []
        for e, first, last in self._episodes:
            oldest = max(0, int(self._count[e]) - self.length)
            low = first if first >= oldest else oldest + self.stack - 1
            high = last - (1 if self.tail == "short" else self.n_step)
            if low <= high:
                ranges.append((e, low, high))
        if not ranges:
            raise UserError("order='episode' draws from finished episodes, and the replay holds none yet")
        table = np.array(ranges, np.int64)
        stream, low, high = table[self._transitions.integers(0, len(table), n)].T
        return stream.copy(), self._transitions.integers(low, high + 1)

    def _observations(self, stream: np.ndarray, slot: np.ndarray, shift: np.ndarray) -> Tensor:
        if isinstance(self._frames, Tensor):
            return self._device_observations(stream, slot, shift)
        from plasticity_lightning.control.replay._kernel import gather_frames

        (c, h, w), b = self.frame_shape, len(slot)
        out = np.empty((b, h, w, self.stack * c), self._table.dtype)
        zero, frames = self.padding == "zero", self._frames

        def run(lo: int, hi: int) -> None:
            gather_frames(
                frames, self._start, stream, slot, shift, self.pad, self.stack, zero, self._table, out, lo, hi
            )

        if self.threads == 1:
            run(0, b)
        else:
            self._pool = self._pool or ThreadPoolExecutor(self.threads)
            cuts = np.linspace(0, b, self.threads + 1).astype(int).tolist()
            list(self._pool.map(run, cuts[:-1], cuts[1:]))
        tensor = torch.from_numpy(out)
        return (tensor.view(torch.bfloat16) if self.dtype == "bfloat16" else tensor).permute(0, 3, 1, 2)

    def _device_observations(self, stream: np.ndarray, slot: np.ndarray, shift: np.ndarray) -> Tensor:
        c, h, w = self.frame_shape
        begin = self._start[stream, slot % self.length]
        wanted = slot[:, None] - np.arange(self.stack - 1, -1, -1)
        black = wanted < begin[:, None]
        place = np.maximum(wanted, begin[:, None]) % self.length
        e, i, dy, dx = (torch.from_numpy(index).to(self.device) for index in (stream, place, shift[:, 0], shift[:, 1]))
        rows = (torch.arange(h, device=self.device) + dy[:, None] - self.pad).clamp(0, h - 1)
        columns = (torch.arange(w, device=self.device) + dx[:, None] - self.pad).clamp(0, w - 1)
        # [B, H, W, S, C], so that the flattened channels lie together
        pixels = self._frames[
            e[:, None, None, None], i[:, None, None, :], rows[:, :, None, None], columns[:, None, :, None]
        ]
        if self.padding == "zero":
            pixels = pixels.masked_fill(torch.from_numpy(black).to(self.device)[:, None, None, :, None], 0)
        pixels = pixels.reshape(len(slot), h, w, self.stack * c).permute(0, 3, 1, 2)
        return pixels if self.dtype == "uint8" else (pixels.float() / 255 - 0.5).to(_TORCH[self.dtype])
