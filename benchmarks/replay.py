"""Drawing and augmenting a batch of DrQ-v2, and appending to a checkpoint: the frame replay against episode files.

Baseline: an episode-file loader written as the published one works. Episodes are .npz files of stacked observations; a data
set draws an episode and an index, transition by transition, looks for new files every 1000 samples and keeps all that it
has read in memory; torch's DataLoader, without workers, makes batches of 256; the random shift pads and samples
bilinearly; pixels become x/255 - 0.5. All episodes are in memory before the clock starts. Everything runs on one
thread, in turn; times are CPU time of the process, the least of the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad
from torch.utils.data import DataLoader, IterableDataset

from plasticity_lightning.control.environments import ContinuousActions, EnvironmentForm
from plasticity_lightning.control.environments.steps import place_steps
from plasticity_lightning.control.replay import FrameReplay
from plasticity_lightning.runtime.heap import keep_heap

FRAME, ACTIONS, STACK, N_STEP, GAMMA, PAD = (3, 84, 84), ContinuousActions(6), 3, 3, 0.99, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    episodes, steps, batch, rounds = (2, 20, 8, 1) if quick else (12, 500, 256, 7)
    with tempfile.TemporaryDirectory() as folder:
        compare_batches(Path(folder), episodes, steps, batch, rounds)
    with tempfile.TemporaryDirectory() as folder:
        compare_checkpoints(Path(folder), episodes, steps)


def compare_batches(folder: Path, episodes: int, steps: int, batch: int, rounds: int) -> None:
    replays = {
        dtype: FrameReplay(FRAME, ACTIONS, episodes * (steps + 1), dtype=dtype) for dtype in ("float32", "bfloat16")
    }
    for number, episode in enumerate(made_up_episodes(episodes, steps)):
        for replay in replays.values():
            fill(replay, episode)
        np.savez_compressed(folder / f"{number}_{steps}.npz", **stacked(episode))
    files = EpisodeFiles(folder)
    loader = iter(DataLoader(files, batch_size=batch))
    while len(files.episodes) < episodes:
        next(loader)
    raw = iter(DataLoader(files, batch_size=batch))
    runs: dict[str, Callable[[], object]] = {
        "episode files, drawn only": lambda: next(raw),
        "episode files, shifted and normalised": lambda: published_batch(next(loader)),
        "frame replay, float32": lambda: replays["float32"].sample(batch),
        "frame replay, bfloat16": lambda: replays["bfloat16"].sample(batch),
    }
    for heap in ("freed memory goes back to the system", "freed memory is kept"):
        best = least(runs, rounds)
        print(f"batch of {batch}, {heap}:")
        baseline = best["episode files, shifted and normalised"]
        for name, taken in best.items():
            print(f"  {name}: {taken * 1e3:.1f} ms, {baseline / taken:.1f}x")
        keep_heap()


def compare_checkpoints(folder: Path, episodes: int, steps: int) -> None:
    replay = FrameReplay(FRAME, ACTIONS, episodes * (steps + 1))
    all_but_last = list(made_up_episodes(episodes, steps))
    last = all_but_last.pop()
    for episode in all_but_last:
        fill(replay, episode)
    replay.append_to(folder / "log")
    fill(replay, last)
    start = time.perf_counter()
    replay.append_to(folder / "log")
    appended = time.perf_counter() - start
    start = time.perf_counter()
    with (folder / "whole").open("wb") as file:
        for episode in [*all_but_last, last]:
            file.write(episode["frame"].tobytes())
        file.flush()
    whole = time.perf_counter() - start
    print(
        f"checkpoint after {steps} of {episodes * steps} steps, wall: appended and on the disk {appended:.2f} s; the frames "
        f"written whole, not waiting for the disk, {whole:.2f} s"
    )


def made_up_episodes(n: int, steps: int) -> Iterator[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    for _ in range(n):
        yield {
            # smooth in part, so that compressed files have a size
            "frame": np.repeat(generator.integers(0, 256, (steps + 1, 3, 84, 12), dtype=np.uint8), 7, axis=3),
            "action": ACTIONS.sample(generator, steps + 1),
            "reward": generator.random((steps + 1, 1), np.float32),
            "discount": np.ones((steps + 1, 1), np.float32),
        }


def stacked(episode: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    frame = episode["frame"]
    at = np.arange(len(frame))
    observation = np.concatenate([frame[np.maximum(at - back, 0)] for back in range(STACK - 1, -1, -1)], axis=1)
    return {"observation": observation} | {k: v for k, v in episode.items() if k != "frame"}


def fill(replay: FrameReplay, episode: dict[str, np.ndarray]) -> None:
    steps, _ = place_steps(None, 1, EnvironmentForm(FRAME, ACTIONS, 2, 500, True))
    replay.start(episode["frame"][:1])
    for t in range(1, len(episode["frame"])):
        for name in ("frame", "action"):
            getattr(steps, name)[0] = episode[name][t]
        steps.reward[0], steps.discount[0] = episode["reward"][t, 0], episode["discount"][t, 0]
        replay.add(steps)


class EpisodeFiles(IterableDataset[tuple[Any, ...]]):
    """Transitions of episodes in files, one at a time: a file by chance, an index by chance."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.episodes, self.drawn = folder, dict[Path, dict[str, np.ndarray]](), 0
        self.generator = np.random.default_rng(0)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while True:
            if self.drawn % 1000 == 0:
                for path in sorted(self.folder.glob("*.npz"), reverse=True):
                    if path not in self.episodes:
                        with np.load(path) as file:
                            self.episodes[path] = {name: file[name] for name in file}
            self.drawn += 1
            episode = self.episodes[list(self.episodes)[self.generator.integers(len(self.episodes))]]
            at = int(self.generator.integers(0, len(episode["reward"]) - 1 - N_STEP + 1)) + 1
            reward, discount = np.zeros_like(episode["reward"][at]), np.ones_like(episode["discount"][at])
            for i in range(N_STEP):
                reward += discount * episode["reward"][at + i]
                discount *= episode["discount"][at + i] * GAMMA
            observation = episode["observation"]
            yield observation[at - 1], episode["action"][at], reward, discount, observation[at + N_STEP - 1]


def published_batch(batch: list[Tensor]) -> list[Tensor]:
    obs, action, reward, discount, next_obs = batch
    return [random_shift(obs) / 255 - 0.5, action, reward, discount, random_shift(next_obs) / 255 - 0.5]


def random_shift(images: Tensor) -> Tensor:
    n, _, size, _ = images.shape
    padded = pad(images.float(), (PAD,) * 4, "replicate")
    whole = size + 2 * PAD
    line = torch.linspace(-1 + 1 / whole, 1 - 1 / whole, whole)[:size]
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).expand(n, -1, -1, -1)
    shift = torch.randint(0, 2 * PAD + 1, (n, 1, 1, 2)).float() * 2 / whole
    return grid_sample(padded, grid + shift, padding_mode="zeros", align_corners=False)


def least(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    for run in runs.values():
        run()  # compiles
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
