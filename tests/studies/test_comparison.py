"""Statistics of a comparison by hand, from runs in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plasticity_lightning.errors import UserError
from plasticity_lightning.studies.comparison import Summary, chosen_tags, misleading, over_seeds, over_tasks
from plasticity_lightning.studies.run_logs import Group, Run, Series


def run(seed: int = 0, **scalars: list[float]) -> Run:
    series = {name.replace("__", "/"): Series(np.arange(len(v)), np.array(v)) for name, v in scalars.items()}
    return Run(Path(f"seed_{seed}"), {"lr": 0.1}, (seed,), series)


def test_mean_and_sample_deviation_over_the_runs_that_logged_it() -> None:
    runs = [run(0, a=[0.0, 1.0, 3.0]), run(1, a=[0.0, 3.0, 5.0]), run(2, b=[9.0])]
    # last two values: means 2 and 4; their mean 3, sample deviation sqrt(2)
    summary = over_seeds(runs, "a", slice(-2, None))
    assert (summary.mean, summary.n) == (3.0, 2)
    assert summary.deviation == pytest.approx(2**0.5)
    assert over_seeds(runs, "b", slice(-1, None)) == Summary(9.0, None, 1)
    assert over_seeds(runs, "c", slice(-1, None)) is None


def test_the_default_scalars_are_scores_and_measures_of_groups() -> None:
    logged = (
        "task__final_accuracy",
        "task__index",
        "plasticity__fau__network",
        "plasticity__fau__network__act",
        "train__loss",
    )
    groups = [Group("a", (run(**{name: [0.5] for name in logged}),))]
    assert chosen_tags(groups, None) == ["task/final_accuracy", "plasticity/fau/network"]
    assert chosen_tags(groups, ["train/*", "plasticity/fau/network/*"]) == ["train/loss", "plasticity/fau/network/act"]
    with pytest.raises(UserError, match="did you mean 'train/loss'"):
        chosen_tags(groups, ["train/los"])
    with pytest.raises(UserError, match="choose by --metrics among: train/loss"):
        chosen_tags([Group("a", (run(train__loss=[1.0]),))], None)
    assert [over_tasks(tag) for tag in ("task/final_accuracy", "test/accuracy")] == [True, False]


def test_repeated_seeds_and_different_lengths_are_said() -> None:
    long, short = ([0.0, 1.0, 2.0],) * 2, ([0.0, 1.0],) * 2
    names = ("task__index", "task__final_accuracy")
    even = Group("even", tuple(run(seed, **dict(zip(names, long, strict=True))) for seed in (0, 1)))
    assert misleading([even]) == []
    same = Group("same", (even.runs[0], even.runs[0]))
    assert misleading([same]) == ["same: some of its 2 runs have the same seeds"]
    uneven = Group("uneven", (even.runs[0], run(1, **dict(zip(names, short, strict=True)))))
    assert misleading([uneven]) == ["uneven: its runs end at different tasks: 2, 1"]
    brief = Group("brief", (run(0, **dict(zip(names, short, strict=True))),))
    assert misleading([even, brief]) == ["last tasks differ: even 2, brief 1"]
