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
    rounds = 1 if parser.parse_args().quick else 5
    best = dict.fromkeys(RUNS, float("inf"))
    for _ in range(rounds):
        for name, command in RUNS.items():
            best[name] = min(best[name], seconds(command))
    for name, taken in best.items():
        baseline = LIGHTNING if "fit" in name else PYTHON
        against = (
            ""
            if name in (PYTHON, LIGHTNING)
            else f"  {taken / best[baseline]:.2f}x, {taken - best[baseline]:+.2f} s against {baseline}"
        )
        print(f"{name:<30} {taken:6.2f} s{against}")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
