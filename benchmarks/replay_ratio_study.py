"""The replay-ratio study at small scale: static ratios with and without augmentation, and the adaptive rule, on `reach`.

    python benchmarks/replay_ratio_study.py runs/study            # runs what is missing, then writes table and plot
    python benchmarks/replay_ratio_study.py runs/study --limit 2  # at most two runs, for a shared machine
    python benchmarks/replay_ratio_study.py --quick               # one tiny run: shows that it runs

Each run is the quickstart recipe with overlays; a run whose `result.json` exists is not repeated. Several calls may share
a folder: a run is held by a lock on its folder while it goes on, and taken up anew when its process has died.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.figure import Figure

from plasticity_lightning.cli import main

RATIOS = {"0.5": "rr_05", "1": "rr_1", "2": "rr_2", "4": "rr_4", "adaptive": "adaptive_quickstart"}
TINY = {  # of --quick
    "model.init_args.replay.capacity": 400,
    "model.init_args.replay.batch_size": 4,
    "model.init_args.loop.random_steps": 10,
    "model.init_args.loop.learning_starts": 10,
    "model.init_args.loop.ticks_per_epoch": 30,
    "model.init_args.loop.evaluation_episodes": 1,
    "trainer.max_epochs": 1,
    "trainer.val_check_interval": 15,
    "trainer.log_every_n_steps": 5,
}
TAGS = ("train/return", "plasticity/fau/critic", "replay_ratio", "eval/return", "test/return")


def conditions(seeds: int) -> list[tuple[str, bool, int]]:
    """(ratio, augmented, seed), seeds outermost, so that an unfinished study has whole replicates."""
    return [(ratio, augmented, seed) for seed in range(seeds) for augmented in (True, False) for ratio in RATIOS]


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether the run of this folder is ours to do: nobody has done it, nobody is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # freed by the system when its process ends, however it ends
        except BlockingIOError:
            yield False
        else:
            yield not (folder / "result.json").is_file()


def run(folder: Path, ratio: str, augmented: bool, seed: int, tiny: bool = False) -> None:
    overlays = [RATIOS[ratio], *([] if augmented else ["no_augmentation"])]
    configs = ["visual_control/quickstart", *(f"visual_control/overlays/{name}" for name in overlays)]
    began = time.process_time()
    arguments = [*(f"--config={config}" for config in configs), f"--seed_everything={seed}"]
    arguments += [f"--model.init_args.loop.seed={seed}", f"--trainer.default_root_dir={folder}"]
    arguments += ["--trainer.enable_progress_bar=false", "--model.init_args.replay.checkpoint=false"]
    arguments += [f"--{name}={value}" for name, value in TINY.items()] if tiny else []
    if main(["fit", *arguments]) != 0:
        raise SystemExit(f"{folder}: the run failed")
    curves = read_curves(sorted(folder.glob("version_*"))[-1])
    result = {"ratio": ratio, "augmented": augmented, "seed": seed, "cpu_seconds": time.process_time() - began}
    (folder / "result.json").write_text(json.dumps(result | {"curves": curves}))


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in TAGS if tag in events.Tags()["scalars"]}


def last_mean(curve: list[tuple[int, float]], n: int) -> float:
    return statistics.fmean(value for _, value in curve[-n:]) if curve else math.nan


def table(results: list[dict]) -> str:
    columns = "replay ratio, augmentation, seeds, test return, last 10 training returns, critic FAU (last 10), rose at"
    lines = [f"| {' | '.join(columns.split(', '))} |", "|---" * 7 + "|"]
    for augmented in (True, False):
        for ratio in RATIOS:
            mine = [r for r in results if r["ratio"] == ratio and r["augmented"] == augmented]
            if not mine:
                continue
            cells = []
            for tag, n in (("test/return", 1), ("train/return", 10), ("plasticity/fau/critic", 10)):
                values = [last_mean(r["curves"].get(tag, []), n) for r in mine]
                spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
                cells.append(f"{statistics.fmean(values):.3g}{spread}")
            rises = [next((frame for frame, value in r["curves"]["replay_ratio"] if value > 0.5), None) for r in mine]
            told = ", ".join("never" if rise is None else str(rise) for rise in rises) if ratio == "adaptive" else ""
            lines.append(f"| {ratio} | {'on' if augmented else 'off'} | {len(mine)} | {' | '.join(cells)} | {told} |")
    return "\n".join(lines)


def plot(results: list[dict], path: Path) -> None:
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, augmented in enumerate((True, False)):
        axes[0][column].set_title(f"augmentation {'on' if augmented else 'off'}")
        for colour, ratio in enumerate(RATIOS):
            mine = [r for r in results if r["ratio"] == ratio and r["augmented"] == augmented]
            for row, tag in enumerate(("eval/return", "plasticity/fau/critic")):
                curves = [r["curves"].get(tag, []) for r in mine]
                if not curves or not all(curves):
                    continue
                length = min(map(len, curves))
                x = [frame for frame, _ in curves[0][:length]]
                y = torch.tensor([[value for _, value in curve[:length]] for curve in curves]).mean(0)
                axes[row][column].plot(x, y, color=f"C{colour}", label=ratio)
    axes[0][0].set_ylabel("evaluation return")
    axes[1][0].set_ylabel("FAU of the critic")
    if axes[0][0].lines:
        axes[0][0].legend(title="replay ratio")
    for axis in axes[1]:
        axis.set_xlabel("frame")
    figure.savefig(path)


def study(folder: Path, seeds: int, limit: int | None, tiny: bool = False) -> None:
    torch.set_num_threads(1)
    done = 0
    for ratio, augmented, seed in conditions(seeds):
        if limit is not None and done >= limit:
            break
        place = folder / f"rr_{ratio}_{'on' if augmented else 'off'}_{seed}"
        with claimed(place) as ours:
            if ours:
                run(place, ratio, augmented, seed, tiny)
                done += 1
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
    if results:
        print(table(results))
        plot(results, folder / "replay_ratio_study.png")
        print(f"{len(results)} runs, {sum(r['cpu_seconds'] for r in results) / 60:.0f} minutes of CPU time; {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--quick", action="store_true", help="one tiny run: shows that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="runs of this call")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as temporary:
            study(Path(temporary), 1, 1, tiny=True)
    elif options.folder is None:
        parser.error("give the folder of the runs, or --quick")
    else:
        study(options.folder, options.seeds, options.limit)
