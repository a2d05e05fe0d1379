"""Seconds until the `plasticity` command answers, against the bare imports that it cannot avoid.

Each command runs in a fresh process; the smallest of several interleaved rounds counts, so that a busy machine disturbs all alike. The commands
without torch are compared with a bare Python, `fit --print_config` with the import of `lightning.pytorch.cli`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

PYTHON = "bare python"
LIGHTNING = "import lightning.pytorch.cli"
COMMAND = [sys.executable, "-m", "plasticity_lightning"]
RUNS = {
    PYTHON: [sys.executable, "-c", "pass"],
    "plasticity --version": [*COMMAND, "--version"],
    "plasticity --help": [*COMMAND, "--help"],
    "plasticity recipes": [*COMMAND, "recipes"],
    LIGHTNING: [sys.executable, "-c", "import lightning.pytorch.cli"],
    "plasticity fit --print_config": [*COMMAND, "fit", "--config", "nalsm/quickstart", "--print_config"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round: shows that it runs, not how fast")
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS), help="these commands alone")
    options = parser.parse_args()
    runs = {
        name: RUNS[name] for name in dict.fromkeys((PYTHON, LIGHTNING, *options.only)) if _wanted(name, options.only)
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(1 if options.quick else 5):
        for name, command in runs.items():
            best[name] = min(best[name], seconds(command))
    for name, taken in best.items():
        baseline = LIGHTNING if "fit" in name else PYTHON
        against = (
            ""
            if name in (PYTHON, LIGHTNING)
            else f"  {taken / best[baseline]:.2f}x, {taken - best[baseline]:+.2f} s against {baseline}"
        )
        print(f"{name:<30} {taken:6.2f} s{against}")


def _wanted(name: str, chosen: list[str]) -> bool:
    """Whether a command is to be timed: chosen, or the baseline of a chosen one."""
    return name in chosen or name == PYTHON or (name == LIGHTNING and any("fit" in other for other in chosen))


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
