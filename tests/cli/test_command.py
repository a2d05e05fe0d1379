"""The command in process: runs, resume, errors."""

import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml

from plasticity_lightning.cli import main
from plasticity_lightning.cli.app import PlasticityCLI
from plasticity_lightning.cli.recipes import list_recipes, resolve_arguments
from plasticity_lightning.cli.runs import claim_run_dir, resolve_checkpoint
from plasticity_lightning.errors import UserError
from plasticity_lightning.runtime import AtomicCheckpoint, GracefulStop, RNGState
from tests.cli import toys


def _recipe(folder, **trainer):
    config = {
        "model": {"class_path": "tests.cli.toys.ToyModule"},
        "data": {"class_path": "tests.cli.toys.ToyData"},
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(folder / "runs"),
            **trainer,
        },
    }
    path = folder / "toy.yaml"
    path.write_text("# A toy\n" + yaml.safe_dump(config))
    return str(path)


def _weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_fit_tests_prints_the_table_and_never_reuses_a_run(tmp_path, capsys):
    recipe = _recipe(tmp_path)
    for _ in range(2):
        assert main(["fit", "--config", recipe]) == 0
    out = capsys.readouterr().out
    assert "test/loss" in out
    assert f"tensorboard --logdir {tmp_path / 'runs'}" in out
    for run in ("version_0", "version_1"):
        assert (tmp_path / "runs" / run / "checkpoints" / "last.ckpt").is_file()
        assert (tmp_path / "runs" / run / "config.yaml").is_file()
    assert main(["test", "--config", recipe, "--ckpt_path", "last"]) == 0


def test_a_run_after_one_under_ddp_in_the_same_process_saves_its_configuration_too(tmp_path):
    # Lightning's launcher leaves LOCAL_RANK in the environment of the process that launched
    recipe = _recipe(tmp_path, strategy="ddp", devices=1)
    for run in ("version_0", "version_1"):
        assert main(["fit", "--config", recipe]) == 0
        assert (tmp_path / "runs" / run / "config.yaml").is_file()


@pytest.mark.slow
def test_the_first_process_of_torchrun_opens_the_one_run_folder(tmp_path):
    recipe = _recipe(tmp_path, strategy="ddp", devices=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "plasticity_lightning", "fit", "--config", recipe]
    subprocess.run(command, check=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["version_0"]
    run = tmp_path / "runs" / "version_0"
    assert (run / "config.yaml").is_file()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert list(run.glob("events.out.*"))


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_and_they_go_on_as_if_uninterrupted(tmp_path):
    def fit(name, *arguments):
        (tmp_path / name).mkdir(exist_ok=True)
        recipe = _recipe(tmp_path / name, strategy="ddp", devices=2)
        command = [sys.executable, "-m", "plasticity_lightning", "fit", "--config", recipe, *arguments]
        return subprocess.run(command, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode

    assert fit("whole") == 0
    overlay = tmp_path / "stop.yaml"
    signals = {"batch": 2, "number": int(signal.SIGTERM), "rank": 1}  # 4 batches an epoch for each process
    overlay.write_text(
        yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "tests.cli.toys.SignalAt", "init_args": signals}]}})
    )
    assert fit("cut", "--config", str(overlay)) == 143
    checkpoint = tmp_path / "cut/runs/version_0/checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    assert fit("cut", "--ckpt_path", "last") == 0
    a, b = _weights(tmp_path / "whole/runs/version_0/checkpoints/last.ckpt"), _weights(checkpoint)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_without_logger_the_run_still_has_its_own_folder(tmp_path):
    recipe = _recipe(tmp_path, logger=False)
    assert main(["fit", "--config", recipe, "--test_after_fit", "false"]) == 0
    assert (tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("batch", "number", "status"), [(3, signal.SIGINT, 130), (8, signal.SIGTERM, 143), (11, signal.SIGINT, 130)]
)
def test_a_signal_then_resume_equals_the_uninterrupted_run_bitwise(tmp_path, capsys, batch, number, status):
    # 8 batches an epoch: a stop inside the first epoch, at its last batch, inside the second
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert main(["fit", "--config", _recipe(whole)]) == 0
    recipe = _recipe(cut)
    stop = cut / "stop.yaml"
    stop.write_text(
        yaml.safe_dump(
            {
                "trainer": {
                    "callbacks": [
                        {"class_path": "tests.cli.toys.SignalAt", "init_args": {"batch": batch, "number": int(number)}}
                    ]
                }
            }
        )
    )
    assert main(["fit", "--config", recipe, "--config", str(stop)]) == status
    assert "--ckpt_path last" in capsys.readouterr().out
    assert main(["fit", "--config", recipe, "--ckpt_path", "last", "--seed_everything", "9"]) == 0
    assert [p.name for p in (cut / "runs").iterdir()] == ["version_0"]
    a = _weights(whole / "runs/version_0/checkpoints/last.ckpt")
    b = _weights(cut / "runs/version_0/checkpoints/last.ckpt")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_listed_callbacks_are_not_doubled(tmp_path):
    overlay = tmp_path / "cb.yaml"
    overlay.write_text("trainer: {callbacks: [{class_path: RNGState}, {class_path: GracefulStop}]}")
    recipe = _recipe(tmp_path, fast_dev_run=True)
    cli = PlasticityCLI(["fit", "--config", recipe, "--config", str(overlay)])
    for kind in (RNGState, GracefulStop, AtomicCheckpoint):
        assert sum(isinstance(callback, kind) for callback in cli.trainer.callbacks) == 1


def test_the_shared_callbacks_are_visible_in_the_printed_configuration(tmp_path, capsys):
    assert main(["fit", "--config", _recipe(tmp_path), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert {"rng", "graceful_stop", "checkpoint", "test_after_fit"} <= set(printed)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed_everithing", "3"], ["seed_everithing", "'seed_everything'"]),
        (["--trainer.max_epoch", "3"], ["trainer.max_epoch", "'trainer.max_epochs'"]),
        (["--trainer.max_epochs", "abc"], ["trainer.max_epochs", "'abc'", "int or null"]),
        (["--model.init_args.widht", "3"], ["'widht'", "fail_at, lr, width", "'width'"]),
        (["--model.width", "abc"], ["width", "'abc'", "int"]),
        (["--model.class_path", "tests.cli.toys.ToyModul"], ["model", "ToyModul", "'ToyModule'"]),
        (["--trainer.callbacks+=GracefulStp"], ["trainer.callbacks", "'GracefulStp'", "'GracefulStop'"]),
        (["--checkpoint.mode", "mx"], ["checkpoint.mode", "'mx'", "min", "max"]),
        (["--model.width", "0"], ["width must be at least 1, got 0"]),
        (["--data.missing", "true"], ["no data under nowhere/"]),
        (["--ckpt_path", "best"], ["best.ckpt", "runs"]),
    ],
)
def test_a_mistake_gives_one_message_and_status_2(tmp_path, capsys, flags, words):
    assert main(["fit", "--config", _recipe(tmp_path), *flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plasticity: error:")]
    assert len(errors) == 1
    assert "Traceback" not in errors[0]
    assert all(word in errors[0] for word in words), errors[0]


def _sparse_recipe(folder, **options):
    settings = {"method": "rigl", "sparsity": 0.5, "every": 1, "summary": False, **options}
    recipe = _recipe(folder, callbacks=[{"class_path": "PruneRegrowScheduler", "init_args": settings}])
    return ["fit", "--config", recipe, "--test_after_fit", "false"]


def test_a_criterion_of_sparse_training_may_be_a_function_by_import_path(tmp_path, capsys):
    toys.CALLS.clear()
    own = dict.fromkeys(("prune_by", "drop_by", "grow_by"), "tests.cli.toys.my_score")
    assert main([*_sparse_recipe(tmp_path, **own), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"][0]["init_args"]
    assert {name: printed[name] for name in own} == own
    assert main(_sparse_recipe(tmp_path, grow_by=own["grow_by"])) == 0
    assert toys.CALLS
    assert all(shape == gradient for shape, gradient in toys.CALLS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prune_schedule": "constant"}, ["prune_schedule", "constant", "cubic"]),
        ({"grow_by": "gradiant"}, ["grow_by", "gradiant"]),
        ({"grow_by": "tests.cli.toys.nothing"}, ["grow_by", "tests.cli.toys.nothing"]),
    ],
)
def test_an_option_of_sparse_training_that_cannot_work_is_refused(tmp_path, capsys, options, words):
    assert main(_sparse_recipe(tmp_path, **options)) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plasticity: error:")]
    assert all(word in error for word in words), error


def test_an_option_of_no_class_says_who_would_take_it(capsys):
    assert main(["fit", "--model.init_args.cache_dir", "x"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "unknown key 'cache_dir'" in error
    assert "--config RECIPE" in error
    assert "NALSM" in error
    assert "allowed:" not in error  # nothing to list


def test_flags_win_over_configs_wherever_they_stand(tmp_path, capsys):
    recipe = _recipe(tmp_path)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("trainer: {max_epochs: 5}\nmodel: {init_args: {width: 9}}")
    flags = ["--trainer.max_epochs=7", "--model.width", "6", "--print_config"]
    printed = []
    for before in (0, 1, 3, 4):
        args = ["fit", *flags[:before], "--config", recipe, f"--config={overlay}", *flags[before:]]
        assert main(args) == 0
        printed.append(yaml.safe_load(capsys.readouterr().out))
    assert printed[0]["trainer"]["max_epochs"] == 7
    assert printed[0]["model"]["init_args"]["width"] == 6
    assert printed[1:] == printed[:1] * 3


def test_a_wrong_key_deep_in_a_callbacks_list_names_the_right_one(tmp_path, capsys):
    overlay = tmp_path / "cb.yaml"
    overlay.write_text("trainer: {callbacks: [{class_path: GracefulStop, init_args: {every_n_batch: 3}}]}")
    assert main(["fit", "--config", _recipe(tmp_path), "--config", str(overlay)]) == 2
    err = capsys.readouterr().err
    assert "'every_n_batch'" in err
    assert "did you mean 'every_n_batches'" in err


def test_an_error_in_training_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="diverged"):
        main(["fit", "--config", _recipe(tmp_path), "--model.fail_at", "2"])


def test_recipe_names_resolve_and_unknown_ones_name_the_nearest(tmp_path):
    (tmp_path / "nalsm").mkdir()
    file = tmp_path / "nalsm" / "quickstart.yaml"
    file.write_text("# What it shows\nmodel: null\n")
    assert list_recipes(tmp_path) == {"nalsm/quickstart": (file, "What it shows")}
    for name in ("nalsm/quickstart", "nalsm/quickstart.yaml"):
        assert resolve_arguments(["fit", "-c", name], tmp_path) == (["fit", "--config", str(file)], "nalsm/quickstart")
    (tmp_path / "frozen.yaml").write_text("model: null\n")
    args = ["fit", "--a", "1", "-c", "nalsm/quickstart", "--b=2", "--config", "frozen", "--c"]
    configs = ["--config", str(file), "--config", str(tmp_path / "frozen.yaml")]
    assert resolve_arguments(args, tmp_path)[0] == ["fit", *configs, "--a", "1", "--b=2", "--c"]
    with pytest.raises(UserError, match="nalsm/quickstart"):
        resolve_arguments(["fit", "--config=nalsm/quikstart"], tmp_path)
    with pytest.raises(UserError, match="--config needs a value"):
        resolve_arguments(["fit", "--config"], tmp_path)


def test_run_folders_are_claimed_once_and_the_newest_checkpoint_wins(tmp_path):
    runs = [claim_run_dir(tmp_path) for _ in range(11)]
    assert [run.name for run in runs] == [f"version_{i}" for i in range(11)]
    for run in (runs[2], runs[10]):  # 10 is newer than 2, though it sorts before it as text
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "last.ckpt").touch()
    assert resolve_checkpoint(tmp_path, "last")[1] == runs[10]
    with pytest.raises(UserError, match=str(tmp_path)):
        resolve_checkpoint(tmp_path, "best")


@pytest.mark.parametrize("flag", ["--version", "--help", "recipes"])
def test_the_fast_commands_need_no_torch(flag):
    code = (
        "import sys\nfrom plasticity_lightning.cli import main\n"
        f"assert main([{flag!r}]) == 0\n"
        "heavy = {'torch', 'lightning', 'numba', 'matplotlib', 'jsonargparse', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_unknown_commands_name_the_nearest(capsys):
    assert main(["fti"]) == 2
    assert "'fit'" in capsys.readouterr().err
