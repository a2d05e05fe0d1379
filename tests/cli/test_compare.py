"""`plasticity compare`: runs found, grouped by configuration, tabulated and drawn."""

import numpy as np
import pytest
import yaml
from torch.utils.tensorboard import SummaryWriter

from plasticity_lightning.cli import main
from plasticity_lightning.errors import UserError
from plasticity_lightning.studies.run_logs import find_runs, group_runs, read_run


def write_run(folder, final, seed=0, lr=0.1, config=True, **scalars):
    """A run whose tasks end with these accuracies."""
    writer = SummaryWriter(str(folder))
    for task, value in enumerate(final):
        writer.add_scalar("task/final_accuracy", value, task)
        writer.add_scalar("task/index", task, task)
    for name, values in scalars.items():
        for step, value in enumerate(values):
            writer.add_scalar(name.replace("__", "/"), value, 10 * step)
    writer.close()
    if config:
        content = {
            "seed_everything": seed,
            "model": {"init_args": {"lr": lr}},
            "data": {"init_args": {"seed": seed}},
            "trainer": {"default_root_dir": str(folder), "callbacks": [{"class_path": "ReDo"}]},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def runs(tmp_path):
    """Two configurations with two seeds each."""
    for seed, shift in ((0, 0.0), (1, 0.2)):
        write_run(
            tmp_path / "baseline" / f"seed_{seed}" / "version_0",
            [0.8 + shift, 0.6 + shift, 0.4 + shift, 0.2 + shift],
            seed,
            plasticity__fau__network=[0.5, 0.3 + shift],
            plasticity__fau__network__act_1=[0.5, 0.1],
        )
        write_run(tmp_path / "redo" / f"seed_{seed}" / "version_0", [0.8, 0.8, 0.8, 0.7 + shift], seed, lr=0.2)
    return tmp_path


def test_runs_of_one_configuration_make_a_group_whatever_their_seeds_and_folders(runs):
    groups = group_runs([str(runs)])
    assert [(group.label, len(group.runs)) for group in groups] == [("baseline", 2), ("redo", 2)]
    assert [run.seeds for run in groups[0].runs] == [(0, 0), (1, 1)]
    same = group_runs([str(runs / "redo"), f"plain={runs / 'baseline'}"])
    assert [group.label for group in same] == ["redo", "plain"]


def test_the_table_has_the_mean_of_first_and_last_tasks_and_the_spread_over_seeds(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["compare", str(runs), "--tasks", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (baseline,) = [line for line in lines if line.startswith("│ baseline")]
    # first two tasks: 0.7 and 0.9, last two: 0.3 and 0.5; sample sd of two values 0.2 apart is 0.2 / sqrt 2 = 0.14
    assert [cell.strip() for cell in baseline.split("│")[1:-1]] == ["baseline", "2", "0.8 ± 0.14", "0.4 ± 0.14"]
    (fau,) = [line for line in lines if "plasticity/fau/network" in line]
    assert [cell.strip() for cell in fau.split("│")[1:-1]] == ["plasticity/fau/network", "0.4 ± 0.14", "-"]
    assert not any("act_1" in line for line in lines)  # layers only on request


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_written_whole_in_the_format_of_its_suffix(runs, tmp_path, suffix):
    output = tmp_path / "plots" / f"a.{suffix}"
    assert main(["compare", str(runs), "--metrics", "task/*", "--output", str(output)]) == 0
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert output.read_bytes().startswith(magic)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_a_resumed_run_counts_once(tmp_path):
    write_run(tmp_path, [0.1, 0.2])
    writer = SummaryWriter(str(tmp_path), filename_suffix=".resumed")
    writer.add_scalar("task/final_accuracy", 0.3, 1)
    writer.add_scalar("task/final_accuracy", 0.4, 2)
    writer.close()
    series = read_run(tmp_path).scalars["task/final_accuracy"]
    assert series.steps.tolist() == [0, 1, 2]
    assert np.allclose(series.values, [0.1, 0.3, 0.4])


def test_names_tell_groups_apart_by_as_much_of_the_path_as_needed(tmp_path):
    for lr, case in enumerate(("mnist", "cifar")):
        write_run(tmp_path / case / "redo" / "seed_0" / "version_0", [0.5], lr=lr)
    write_run(tmp_path / "mixed" / "version_0", [0.5], lr=7)
    write_run(tmp_path / "mixed" / "version_1", [0.5], lr=8)
    assert [group.label for group in group_runs([str(tmp_path / "mnist"), str(tmp_path / "cifar")])] == [
        "mnist/redo",
        "cifar/redo",
    ]
    assert [group.label for group in group_runs([str(tmp_path / "mixed")])] == ["version_0", "version_1"]


def test_runs_without_configuration_are_grouped_by_folder(tmp_path):
    for name in ("a", "b"):
        for seed in (0, 1):
            write_run(tmp_path / name / f"seed_{seed}", [0.5], config=False)
    assert [(group.label, len(group.runs)) for group in group_runs([str(tmp_path)])] == [("a", 2), ("b", 2)]


def test_run_folders_are_in_natural_order(tmp_path):
    for number in (10, 9):
        write_run(tmp_path / f"version_{number}", [0.5])
    assert [path.name for path in find_runs(tmp_path)] == ["version_9", "version_10"]


def test_what_would_mislead_is_said(runs, capsys):
    write_run(runs / "redo" / "seed_0" / "version_1", [0.8, 0.8], lr=0.2)
    assert main(["compare", str(runs)]) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert "redo: some of its 3 runs have the same seeds" in out
    assert "redo: its runs end at different tasks: 3, 1, 3" in out


def test_a_label_over_different_configurations_is_refused(runs):
    with pytest.raises(UserError, match=r"model.init_args.lr is 0.1 there and 0.2"):
        group_runs([f"all={runs}"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["RUN"]),
        (["nowhere"], ["nowhere", "no such folder"]),
        (["{root}", "--tasks", "0"], ["--tasks 0", "at least 1"]),
        (["{root}", "--tasks", "x"], ["--tasks", "'x'"]),
        (["{root}", "--output", "a.gif"], ["a.gif", ".png"]),
        (["{root}", "--metrics", "task/finl_accuracy"], ["task/finl_accuracy", "did you mean 'task/final_accuracy'"]),
        (["{root}", "--colour", "red"], ["--colour"]),
        (["{root}/baseline/seed_0/version_0/empty"], ["no TensorBoard event file"]),
    ],
)
def test_a_mistake_gives_one_message_and_status_2(runs, capsys, arguments, words):
    (runs / "baseline" / "seed_0" / "version_0" / "empty").mkdir()
    assert main(["compare", *(argument.format(root=runs) for argument in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("plasticity: error:")
    assert all(word in line for word in words), line


def test_help_names_the_options(capsys):
    assert main(["compare", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(option in out for option in ("RUN", "--metrics", "--tasks", "--output"))
