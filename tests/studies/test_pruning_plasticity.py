"""The pruning-plasticity study on a stranger's module: what is compared, equal lengths, learning rates, refusals."""

import csv
import json

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from plasticity_lightning.cli import main
from plasticity_lightning.errors import UserError
from plasticity_lightning.studies.pruning_plasticity import Arm, arms, finished_epochs, run_study, write_outcomes
from plasticity_lightning.viz.pruning import pruning_plasticity
from tests.cli.toys import ToyData


class Scored(LightningModule):
    """A stranger's regression; its metric is the negative loss."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/score", -(self.net(batch[0]) - batch[1]).square().mean())

    def test_step(self, batch, batch_idx):
        self.log("test/score", -(self.net(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, 0.5)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])]


class Rates(Callback):
    """Learning rates of all steps of all runs."""

    seen: list = []  # noqa: RUF012 - shared on purpose

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(round(optimizer.param_groups[0]["lr"], 6))


def build(extra, max_epochs, **settings):
    torch.manual_seed(0)
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*extra, Rates()],
        **settings,
    )
    return trainer, Scored(), ToyData()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "two.ckpt"
    trainer, module, data = build([], 2)
    trainer.fit(module, data)
    trainer.save_checkpoint(path)
    return path


def test_outcomes_are_those_of_training_by_hand(checkpoint):
    (outcome,) = run_study(build, [checkpoint], [Arm(0.5, "uniform", False)], 2, "val/score")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    trainer, module, data = build([], 4)
    assert outcome.before == trainer.validate(module, data, ckpt_path=checkpoint, verbose=False)[0]["val/score"]
    for name in ("net.0.weight", "net.2.weight"):
        flat = state[name].abs().flatten()
        state[name][state[name].abs() <= flat.sort().values[len(flat) // 2 - 1]] = 0
    trainer, module, data = build([], 4)
    module.load_state_dict(state)
    assert outcome.pruned == trainer.validate(module, data, verbose=False)[0]["val/score"]
    trainer, module, data = build([], 4)
    trainer.fit(module, data, ckpt_path=checkpoint)
    assert outcome.unpruned == trainer.validate(module, data, verbose=False)[0]["val/score"]
    assert outcome.plasticity == outcome.continued - outcome.unpruned
    assert (outcome.epoch, outcome.sparsity) == (2, 0.5)


def test_the_learning_rate_follows_the_schedule_or_is_held(checkpoint):
    for choice, expected in (("schedule", [0.01] * 8 + [0.001] * 8), ("constant", [0.01] * 16)):
        Rates.seen.clear()
        (outcome,) = run_study(build, [checkpoint], [Arm(0.5, "global", True)], 2, "val/score", choice)
        assert Rates.seen == expected * 2  # the unpruned network and the arm: equally many steps at equal rates
        assert outcome.learning_rate == pytest.approx(0.01)


def test_all_combinations_are_planned():
    assert arms([0.5, 0.9], ["uniform"], [False, True]) == [
        Arm(0.5, "uniform", False),
        Arm(0.9, "uniform", False),
        Arm(0.5, "uniform", True),
        Arm(0.9, "uniform", True),
    ]


def test_what_cannot_be_studied_is_told(checkpoint, tmp_path):
    plan = [Arm(0.5, "global", False)]
    with pytest.raises(UserError, match="metric 'val/scor' is not logged; logged: val/score; did you mean 'val/score'"):
        list(run_study(build, [checkpoint], plan, 1, "val/scor"))
    with pytest.raises(UserError, match="epochs must be at least 1, got 0"):
        list(run_study(build, [checkpoint], plan, 0, "val/score"))
    with pytest.raises(UserError, match=r"stopped after 3 batches, 8 are one epoch; .* equal length"):
        list(run_study(lambda e, n: build(e, n, max_steps=19), [checkpoint], plan, 2, "val/score"))
    with pytest.raises(UserError, match=r"must lie strictly between 0 and 1, got 1\.5"):
        arms([0.5, 1.5], ["global"], [False])
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match="holds no optimizer state"):
        finished_epochs(tmp_path / "weights.ckpt")


def test_outcomes_are_written_as_csv_and_json(checkpoint, tmp_path):
    outcomes = list(run_study(build, [checkpoint], arms([0.5], ["global"], [False, True]), 1, "test/score"))
    write_outcomes(outcomes, tmp_path / "new")
    rows = json.loads((tmp_path / "new" / "outcomes.json").read_text())
    assert [row["plasticity"] for row in rows] == [o.plasticity for o in outcomes]
    with (tmp_path / "new" / "outcomes.csv").open() as file:
        assert [float(row["continued"]) for row in csv.DictReader(file)] == [o.continued for o in outcomes]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["outcomes.csv", "outcomes.json"]


def test_the_command_serves_a_strangers_recipe_and_tells_mistakes(checkpoint, tmp_path, capsys):
    recipe = tmp_path / "toy.yaml"
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": str(tmp_path / "runs")}
    trainer["callbacks"] = [{"class_path": "ModelCheckpoint"}, {"class_path": "LearningRateMonitor"}]
    model = {"class_path": "tests.studies.test_pruning_plasticity.Scored"}
    recipe.write_text(
        yaml.safe_dump({"model": model, "data": {"class_path": "tests.cli.toys.ToyData"}, "trainer": trainer})
    )
    command = ["pruning-plasticity", "--config", str(recipe), "--epochs=1", "--metric=val/score"]
    more = ["--prune_rates=[0.5]", "--shares=[uniform,global]", f"--output={tmp_path / 'out'}"]
    assert main([*command, *more, f"--ckpt_path=[{checkpoint},{checkpoint}]"]) == 0
    assert len(json.loads((tmp_path / "out" / "outcomes.json").read_text())) == 2 * 2 * 2
    assert (tmp_path / "out" / "plasticity.png").is_file()
    capsys.readouterr()
    for flags, words in (
        ([f"--ckpt_path={tmp_path / 'no.ckpt'}"], "no.ckpt: no such file"),
        ([f"--ckpt_path={checkpoint}", "--prune_rates=[1.5]"], "got 1.5"),
        ([f"--ckpt_path={checkpoint}", "--shares=[unifrom]"], "uniform"),
        ([], "ckpt_path"),
    ):
        assert main([*command, *flags]) == 2
        assert words in capsys.readouterr().err


def test_the_figure_has_a_panel_for_each_share_and_a_line_for_each_series():
    figure = pruning_plasticity(
        epoch=[2, 2, 2, 2, 8, 8],
        learning_rate=[0.1] * 4 + [0.01] * 2,
        rate=[0.9, 0.5, 0.5, 0.9, 0.5, 0.9],
        share=["uniform", "uniform", "uniform", "uniform", "global", "global"],
        regenerate=[False, False, True, True, False, False],
        plasticity=[-0.2, -0.1, 0.0, -0.1, -0.3, -0.4],
    )
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert set(panels) == {"uniform pruning", "global pruning"}
    lines = [
        line for line in panels["uniform pruning"].lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"
    ]
    assert [line.get_xdata().tolist() for line in lines] == [[50.0, 90.0]] * 2
    assert lines[0].get_ydata().tolist() == [-0.1, -0.2]
    with pytest.raises(ValueError, match="one length"):
        pruning_plasticity([1], [0.1], [0.5], ["global"], [True], [])
