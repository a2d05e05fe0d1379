"""Training and evaluation returns of finished runs over frames, beside curves that others published.

    python benchmarks/learning_curves.py runs/a runs/b --reference dmc_cartpole_swingup.csv --to curves.png
    python benchmarks/learning_curves.py --quick      # made-up runs: shows that it runs

A run is the folder that `--trainer.default_root_dir` named. The reference has the columns seed, frame and
episode_reward, as in the folder `curves` of facebookresearch/drqv2. Prints the last returns of each run.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

TAGS = ("train/return", "eval/return", "test/return")
Curve = list[tuple[float, float]]


def read_run(folder: Path) -> dict[str, Curve]:
    """Curves by tag of the newest version in a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(sorted(folder.glob("version_*"))[-1]), {"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in TAGS if tag in events.Tags()["scalars"]}


def read_reference(path: Path) -> dict[str, Curve]:
    """Curves by seed."""
    curves: dict[str, Curve] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["seed"], []).append((float(row["frame"]), float(row["episode_reward"])))
    return curves


def draw(runs: dict[str, dict[str, Curve]], reference: dict[str, Curve], path: Path) -> None:
    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    end = max(frame for curves in runs.values() for frame, _ in curves["train/return"])
    for number, curve in enumerate(reference.values()):
        shown = [point for point in curve if point[0] <= 1.25 * end]
        axes.plot(
            *zip(*shown, strict=True), color="0.75", linewidth=1, label=None if number else "reference, evaluation"
        )
    for number, (name, curves) in enumerate(runs.items()):
        axes.plot(*zip(*curves["train/return"], strict=True), color=f"C{number}", label=f"{name}, training")
        if "eval/return" in curves:
            axes.plot(*zip(*curves["eval/return"], strict=True), f"C{number}o")
    axes.set_xlabel("frame")
    axes.set_ylabel("return of an episode; dots: evaluation")
    axes.legend(fontsize="small")
    figure.savefig(path)


def report(runs: dict[str, dict[str, Curve]]) -> None:
    for name, curves in runs.items():
        training = [value for _, value in curves["train/return"]]
        told = [f"mean of the last 10 training returns {statistics.fmean(training[-10:]):.0f}"]
        for tag in TAGS[1:]:
            told += [f"{tag} {value:.0f} after {frame:.0f} frames" for frame, value in curves.get(tag, [])]
        print(f"{name}: {len(training)} episodes, {', '.join(told)}")


def made_up(folder: Path) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "version_0")) as writer:
        for frame in range(100, 2001, 100):
            writer.add_scalar("train/return", frame / 10, frame)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--to", type=Path, default=Path("learning_curves.png"))
    parser.add_argument("--quick", action="store_true", help="made-up runs: shows that it runs")
    options = parser.parse_args()
    if not options.runs and not options.quick:
        parser.error("give the folders of the runs, or --quick")
    with tempfile.TemporaryDirectory() as temporary:
        folders = [made_up(Path(temporary) / "made_up")] if options.quick else options.runs
        runs = {folder.name: read_run(folder) for folder in folders}
    report(runs)
    draw(runs, read_reference(options.reference) if options.reference else {}, options.to)


if __name__ == "__main__":
    main()
