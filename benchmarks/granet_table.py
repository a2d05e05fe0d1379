"""Accuracy and FLOPs of finished sparse-training runs, as one table over methods, sparsities and seeds.

Reads what every run leaves: `config.yaml` (method, sparsity, seed, data) and TensorBoard's scalars `test/accuracy`,
`sparsity/training_flops` and `sparsity/inference_flops` (both relative to dense). Usage:

    python benchmarks/granet_table.py runs/table            # every run below the folder
    python benchmarks/granet_table.py --quick               # trains two tiny runs on the digits first
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ORDER = (
    "dense",
    "static_random",
    "static_erk",
    "snip",
    "grasp",
    "set",
    "rigl",
    "rigl_itop",
    "srigl",
    "gmp",
    "granet",
    "granet_s2s",
)
TAGS = ("test/accuracy", "sparsity/training_flops", "sparsity/inference_flops")


def read_run(folder: Path) -> tuple[tuple[str, float, str], int, dict[str, float]] | None:
    """((data, sparsity, method), seed, last value of each tag), or None for an unfinished run."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    callbacks = config["trainer"]["callbacks"] or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    arguments: list[dict[str, Any]] = [
        c["init_args"] for c in callbacks if c["class_path"].endswith("PruneRegrowScheduler")
    ]
    method = arguments[0]["method"] if arguments else "dense"
    sparsity = arguments[0]["sparsity"] if arguments and method != "dense" else 0.0
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    known = events.Tags()["scalars"]
    if "test/accuracy" not in known:
        return None
    values = {tag: events.Scalars(tag)[-1].value for tag in TAGS if tag in known}
    data = config["data"]["class_path"].rpartition(".")[2].removesuffix("DataModule")
    return (data, sparsity, method), int(config["seed_everything"]), values


def table(root: Path) -> str:
    """Markdown: one row for each data set, sparsity and method; mean ± sample standard deviation over seeds."""
    groups: dict[tuple[str, float, str], dict[int, dict[str, float]]] = defaultdict(dict)
    for path in sorted(root.rglob("config.yaml")):
        run = read_run(path.parent)
        if run is None:
            print(f"{path.parent}: no test accuracy, left out", file=sys.stderr)
            continue
        key, seed, values = run
        if seed in groups[key]:
            raise SystemExit(f"two finished runs of {key} with seed {seed}, one of them {path.parent}: remove one")
        groups[key][seed] = values
    if not groups:
        raise SystemExit(f"{root}: no finished run")
    lines = [
        "| data | sparsity | method | seeds | test accuracy (%) | training FLOPs | inference FLOPs |",
        "|---|---|---|---|---|---|---|",
    ]
    for data, sparsity, method in sorted(groups, key=lambda key: (key[0], key[1], ORDER.index(key[2]))):
        seeds = groups[data, sparsity, method]
        accuracies = [100 * values["test/accuracy"] for values in seeds.values()]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        flops = [statistics.mean(values.get(tag, float("nan")) for values in seeds.values()) for tag in TAGS[1:]]
        lines.append(
            f"| {data} | {sparsity:.0%} | {method} | {len(seeds)} | {statistics.mean(accuracies):.2f}{spread} "
            f"| {flops[0]:.3f} | {flops[1]:.3f} |"
        )
    return "\n".join(lines)


def quick(root: Path) -> None:
    """Two runs of two epochs on the digits."""
    from plasticity_lightning.cli import main

    for method in ("dense", "granet_d2s"):
        arguments = ["fit", "--config", "granet/quickstart", "--config", f"granet/overlays/{method}"]
        arguments += [
            "--trainer.max_epochs=2",
            "--trainer.check_val_every_n_epoch=1",
            "--trainer.enable_progress_bar=false",
            "--data.init_args.limit_train=256",
            "--trainer.callbacks.init_args.every=1",
        ]
        if main([*arguments, f"--trainer.default_root_dir={root / method}"]):
            raise SystemExit(f"{method} did not train")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, help="folder with runs below it")
    parser.add_argument("--quick", action="store_true", help="train two tiny runs and tabulate them")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            quick(Path(folder))
            print(table(Path(folder)))
    elif options.root is None:
        parser.error("give the folder of the runs, or --quick")
    else:
        print(table(options.root))
