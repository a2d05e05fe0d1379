"""Replay of frames: every frame once, as uint8, in a ring an environment; batches drawn, stacked, shifted in one pass.

A transition is an observation (the last `stack` frames), the action after it, the n-step return, its discount and the
observation n steps on. Its return never crosses the end of an episode: at a true termination the discount is 0, at a
time limit the learner bootstraps from the last frame. Sources: Yarats et al. 2022 (DrQ-v2; n-step, random shift, the
order "episode, then index"); the sums are the published code's to the bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from plasticity_lightning.control.environments.contract import Actions
from plasticity_lightning.control.environments.frame_stack import Padding
from plasticity_lightning.control.environments.steps import Steps
from plasticity_lightning.control.replay.batch import Batch, Draw
from plasticity_lightning.control.replay.draw import ORDERS, Order
from plasticity_lightning.control.replay.pixels import PIXEL_TYPES, PixelReader, PixelType, to_device
from plasticity_lightning.control.replay.ring import FrameRing
from plasticity_lightning.control.replay.ring_log import RingLog
from plasticity_lightning.errors import UserError

__all__ = ["FrameReplay", "Storage", "Tail"]

Storage = Literal["memory", "memmap", "device"]
Tail = Literal["full", "short"]


class FrameReplay:
    """See the module's text.

    `sample` is deterministic in the seed and the content. `prefetch` makes the next batch in a thread; it changes
    nothing that is drawn, since whatever happens before the batch is taken (`add`, `state`, a change of `augment`)
    takes the draw back.

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
        episode_steps: of the longest episode, where it is known; to refuse an n_step that no episode has.

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
        episode_steps: int | None = None,
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
            ("dtype", dtype, PIXEL_TYPES),
            ("order", order, ORDERS),
            ("tail", tail, ("full", "short")),
            ("padding", padding, ("repeat", "zero")),
        ):
            if choice not in choices:
                raise ValueError(f"{argument}={choice!r} must be one of {', '.join(choices)}")
        if episode_steps is not None and n_step > episode_steps and tail == "full":
            raise ValueError(f"n_step={n_step} is longer than an episode, which has at most {episode_steps} steps")
        length = capacity // n_environments
        if length < stack + n_step:
            raise ValueError(
                f"capacity={capacity} gives {length} frames to each of {n_environments} environments; "
                f"one transition takes {stack + n_step} (stack={stack}, n_step={n_step})"
            )
        self.n_step, self.gamma, self.pad, self.order = n_step, gamma, pad, order
        self.device = torch.device(device if storage == "device" else "cpu")
        self._ring = FrameRing(
            frame_shape,
            actions,
            n_environments,
            length,
            stack=stack,
            n_step=n_step,
            short=tail == "short",
            storage=storage,
            folder=Path(tempfile.gettempdir()) if folder is None else folder,
            device=self.device,
        )
        self._reader = PixelReader(self._ring, pad, dtype, padding == "zero", threads)
        transitions, shifts = np.random.SeedSequence(seed).spawn(2)
        self._transitions, self._shifts = np.random.default_rng(transitions), np.random.default_rng(shifts)
        self._augment = True
        self._prefetcher: ThreadPoolExecutor | None = None
        self._prefetched: tuple[int, dict[str, Any], Future[Batch]] | None = None  # size, state before, batch
        self._log = RingLog(self._ring)

    def __len__(self) -> int:
        """Number of transitions that may be drawn."""
        return self._ring.size

    @property
    def augment(self) -> bool:
        """Whether batches are shifted."""
        return self._augment

    @augment.setter
    def augment(self, value: bool) -> None:
        self._take_back()
        self._augment = bool(value)

    def start(self, frames: np.ndarray) -> None:
        """Every environment begins an episode with `frames` uint8 [E, C, H, W]; a running one ends without a last step."""
        self._take_back()
        for e in range(self._ring.n):
            self._ring.begin(e, frames[e])

    def add(self, steps: Steps) -> None:
        """Take a step of all environments; where an episode ended, also the first frame of the next.

        Raises:
            RuntimeError: before the first `start`.
        """
        if not self._ring.count.all():
            raise RuntimeError("add: give the first frames to start() before")
        self._take_back()
        for e in range(self._ring.n):
            last = bool(steps.last[e])
            self._ring.add(
                e, steps.frame[e], steps.action[e], float(steps.reward[e]), float(steps.discount[e]), last=last
            )
            if last:
                self._ring.begin(e, steps.reset_frame[e])

    def sample(self, batch_size: int) -> Batch:
        """Draw and read `batch_size` transitions, with replacement; errors as `draw`."""
        if self._prefetched is not None and self._prefetched[0] == batch_size:
            batch, self._prefetched = self._prefetched[2].result(), None
            return batch
        self._take_back()
        return self.gather(self.draw(batch_size))

    def prefetch(self, batch_size: int) -> None:
        """Let a thread make the batch that the next `sample(batch_size)` returns; errors as `draw`."""
        if self._prefetched is not None and self._prefetched[0] == batch_size:
            return
        self._take_back()
        before = self.state()
        draw = self.draw(batch_size)
        self._prefetcher = self._prefetcher or ThreadPoolExecutor(1, "replay")
        self._prefetched = batch_size, before, self._prefetcher.submit(self.gather, draw)

    def batches(self, n: int, batch_size: int) -> Iterator[Batch]:
        """The `n` batches that `n` calls of `sample` give, each made while the one before is used, the first from now on."""
        if n > 0:
            self.prefetch(batch_size)
        return self._batches(n, batch_size)

    def draw(self, batch_size: int) -> Draw:
        """Choose transitions and shifts.

        Raises:
            ValueError: if batch_size < 1.
            UserError: if there is nothing to draw from.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if self._ring.size == 0:
            raise UserError(
                f"the replay holds {int((self._ring.count - self._ring.oldest).sum())} frames and no transition of "
                f"n_step={self.n_step} steps: collect more first, or take a smaller n_step if the episodes are shorter"
            )
        stream, slot = ORDERS[self.order](self._ring, self._transitions, batch_size)
        shift = self._shifts.integers(0, 2 * self.pad + 1, (2, batch_size, 2))
        return Draw(stream, slot, shift if self.augment else np.full_like(shift, self.pad))

    def gather(self, draw: Draw) -> Batch:
        """Read the transitions of `draw`."""
        from plasticity_lightning.control.replay._kernel import gather_returns  # numba is slow to import

        ring, b = self._ring, len(draw.slot)
        reward, discount, following = np.empty(b, np.float32), np.empty(b, np.float32), np.empty(b, np.int64)
        gather_returns(
            draw.stream,
            draw.slot,
            ring.window,
            ring.reward,
            ring.discount,
            np.float32(self.gamma),
            reward,
            discount,
            following,
        )
        action = ring.action[draw.stream, (draw.slot + 1) % ring.length]
        return Batch(
            self._reader.read(draw.stream, draw.slot, draw.shift[0]),
            to_device(action, self.device),
            to_device(reward, self.device),
            to_device(discount, self.device),
            self._reader.read(draw.stream, following, draw.shift[1]),
        )

    def state(self) -> dict[str, Any]:
        """States of the two generators and `augment`; the content is the affair of `append_to`."""
        self._take_back()
        return {
            "transitions": self._transitions.bit_generator.state,
            "shifts": self._shifts.bit_generator.state,
            "augment": self.augment,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Draw on as the replay would have that gave `state`."""
        self._take_back()
        self._transitions.bit_generator.state = state["transitions"]
        self._shifts.bit_generator.state = state["shifts"]
        self._augment = state["augment"]

    def append_to(self, folder: Path) -> dict[str, Any]:
        """Write what is new to the log in `folder`; what the checkpoint has to hold of it. See `RingLog.append_to`."""
        return self._log.append_to(folder)

    def restore(self, folder: Path, meta: dict[str, Any]) -> None:
        """Fill this replay with the content that `append_to` described by `meta`. See `RingLog.restore`."""
        self._take_back()
        self._log.restore(folder, meta)

    def drop_unreferenced(self, folder: Path, metas: Iterable[dict[str, Any]]) -> None:
        """Free what no checkpoint needs of the log in `folder`. See `RingLog.drop_unreferenced`."""
        self._log.drop_unreferenced(folder, metas)

    def check_disk(self, folder: Path) -> None:
        """Refuse a `folder` without room for the log of this replay, once it is full. See `RingLog.check_disk`."""
        self._log.check_disk(folder)

    def _batches(self, n: int, batch_size: int) -> Iterator[Batch]:
        for left in range(n - 1, -1, -1):
            batch = self.sample(batch_size)
            if left:
                self.prefetch(batch_size)
            yield batch

    def _take_back(self) -> None:
        """Undo a prefetched draw."""
        if self._prefetched is not None:
            (_, before, batch), self._prefetched = self._prefetched, None
            batch.exception()  # waits
            self._transitions.bit_generator.state = before["transitions"]
            self._shifts.bit_generator.state = before["shifts"]
