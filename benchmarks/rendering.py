"""Cost and error of the render qualities, and what it gains that environments step while updates run.

Baseline of the rendering: dm_control's own `physics.render(84, 84)`, which draws into an off-screen buffer of 640 x 480. All
qualities render the same states in turn; times are CPU time of the process. Errors are in units of 1/255, over frames
of random play. The overlap compares ticks of one environment and one update in wall time: collector "process" against
"inline", the same update, a convolutional encoder and its gradient on one thread. That needs two idle cores; the CPU time
of both processes says what it could be there.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa draws in the calling thread; read at its start

import numpy as np
import torch
from torch import nn

from plasticity_lightning.control.environments import Collector, EnvironmentSpec
from plasticity_lightning.control.environments.dm_control_suite import DmControlEnvironment, suite_tasks
from plasticity_lightning.control.environments.headless import import_suite
from plasticity_lightning.control.environments.processes import EnvironmentProcess

QUALITIES = ("exact", "near", "fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few frames: shows that it runs, not how fast")
    parser.add_argument("--tasks", nargs="*", default=["cartpole_swingup", "cheetah_run", "quadruped_run"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import_suite()
    print(f"MUJOCO_GL={os.environ['MUJOCO_GL']}, LP_NUM_THREADS={os.environ['LP_NUM_THREADS']}")
    for task in arguments.tasks[: 1 if arguments.quick else None]:
        compare_qualities(task, states=2 if arguments.quick else 30, rounds=1 if arguments.quick else 4)
    compare_overlap(ticks=3 if arguments.quick else 30, rounds=1 if arguments.quick else 5)


def compare_qualities(task: str, states: int, rounds: int) -> None:
    domain, name = suite_tasks()[task]
    plain = import_suite().load(domain, name, task_kwargs={"random": 0}).physics
    camera = 2 if domain == "quadruped" else 0
    ours = {quality: DmControlEnvironment(task, render_quality=quality) for quality in QUALITIES}
    actor = DmControlEnvironment(task, seed=1, render_quality="fast")
    actor.reset()
    seconds = dict.fromkeys(("default", *QUALITIES), float("inf"))
    errors: dict[str, list[np.ndarray]] = {quality: [] for quality in QUALITIES}
    played = []
    for action in actor.actions.sample(np.random.default_rng(0), states):
        actor.step(action)
        played.append((actor.state(), actor._environment.physics.get_state()))
    plain.render(84, 84, camera_id=camera)  # makes its buffers
    for environment in ours.values():
        environment.reset()
    for round_ in range(rounds):
        spent = dict.fromkeys(seconds, 0.0)
        for state, positions in played:
            with plain.reset_context():
                plain.set_state(positions)
            frames = {"default": timed(lambda: plain.render(84, 84, camera_id=camera), spent, "default")}
            for quality, environment in ours.items():
                environment.set_state(state)
                frames[quality] = timed(environment._frame, spent, quality).transpose(1, 2, 0)
                if not round_:
                    errors[quality].append(np.abs(frames[quality].astype(float) - frames["default"]))
        seconds = {key: min(seconds[key], spent[key] / states) for key in seconds}
    print(f"{task}: default {1 / seconds['default']:.0f} renders/s of CPU time")
    for quality in QUALITIES:
        error = np.stack(errors[quality])
        print(
            f"  {quality}: {1 / seconds[quality]:.0f} renders/s, {seconds['default'] / seconds[quality]:.1f}x; error mean "
            f"{error.mean():.3f}, largest frame's mean {error.mean((1, 2, 3)).max():.3f}, largest {error.max():.0f} of 255"
        )
    for environment in (*ours.values(), actor):
        environment.close()


def timed(run: Callable[[], np.ndarray], spent: dict[str, float], key: str) -> np.ndarray:
    start = time.process_time()
    frame = run()
    spent[key] += time.process_time() - start
    return np.array(frame)


def compare_overlap(ticks: int, rounds: int) -> None:
    spec = EnvironmentSpec("cartpole_swingup", {"render_quality": "exact"})
    inline, process = (Collector(spec, [0], mode) for mode in ("inline", "process"))
    actions = inline.actions.sample(np.random.default_rng(0), ticks)[:, None]
    for collector in (inline, process):
        collector.reset()
    per_step = cpu(lambda: run_ticks(inline, actions, lambda: None)) / ticks
    update, per_update = update_of(per_step)
    times = {"inline": float("inf"), "process": float("inf")}
    here = dict.fromkeys(times, 0.0)
    there = 0.0
    for _ in range(rounds):
        for name, collector in (("inline", inline), ("process", process)):
            start, start_there = time.process_time(), processes_time(process)
            times[name] = min(times[name], wall(lambda c=collector: run_ticks(c, actions, update)) / ticks)
            here[name] += (time.process_time() - start) / (ticks * rounds)
            there += (processes_time(process) - start_there) / (ticks * rounds)
    print(
        f"overlap, wall: a step takes {per_step * 1e3:.1f} ms of CPU time, an update {per_update * 1e3:.1f} ms; a tick of both inline "
        f"{times['inline'] * 1e3:.1f} ms, in a process {times['process'] * 1e3:.1f} ms, {times['inline'] / times['process']:.2f}x"
    )
    print(
        f"overlap, CPU time of a tick: inline {here['inline'] * 1e3:.1f} ms; in a process {here['process'] * 1e3:.1f} ms here and "
        f"{there * 1e3:.1f} ms there: at most {here['inline'] / max(here['process'], there):.2f}x on idle cores"
    )
    inline.close()
    process.close()


def processes_time(collector: Collector) -> float:
    """CPU seconds that the processes of a collector have used."""
    fields = [
        Path(f"/proc/{part._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        for part in collector._parts
        if isinstance(part, EnvironmentProcess)
    ]
    return sum(int(user) + int(system) for *_, user, system in (line[:13] for line in fields)) / os.sysconf(
        "SC_CLK_TCK"
    )


def run_ticks(collector: Collector, actions: np.ndarray, update: Callable[[], object]) -> None:
    for action in actions:
        collector.submit(action)
        update()
        collector.result()


def update_of(seconds: float) -> tuple[Callable[[], object], float]:
    """An update that takes about as long as a step, by its batch, and how long it does take."""
    encoder = nn.Sequential(nn.Conv2d(9, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))

    def update(batch: int) -> None:
        encoder(torch.zeros(batch, 9, 84, 84)).square().mean().backward()

    update(1)
    one = min(cpu(lambda: update(4)) for _ in range(5)) / 4
    batch = max(1, round(seconds / one))
    return lambda: update(batch), min(cpu(lambda: update(batch)) for _ in range(5))


def cpu(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def wall(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
