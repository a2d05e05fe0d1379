"""`plasticity diagnose-liquid` on a trained liquid: right numbers, nothing written, mistakes told in one message."""

import pytest
import torch

from plasticity_lightning.cli import main
from plasticity_lightning.data import DigitsDataModule
from plasticity_lightning.measures.kernel import separation_rank
from plasticity_lightning.modules import NALSM
from plasticity_lightning.spiking.liquid.item_batches import join_batches, spaced_items

RECIPE = ["--config", "nalsm/quickstart", "--model.init_args.shape", "[4,4,4]"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("liquid")
    small = ["--data.init_args.limit_train=40", "--trainer.enable_progress_bar=false", "--test_after_fit=false"]
    assert main(["fit", *RECIPE, *small, "--trainer.default_root_dir", str(folder)]) == 0
    return folder


def values(text):
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    return {row[1].strip(): float(row[2]) for row in rows}


def test_the_table_is_that_of_the_checkpoint_and_nothing_is_written(root, capsys):
    before = sorted(root.rglob("*"))
    command = ["diagnose-liquid", *RECIPE, "--trainer.default_root_dir", str(root), "--ckpt_path", "last"]
    assert main([*command, "--n_items", "100", "--per_class", "5", "--draws", "3"]) == 0
    found = values(capsys.readouterr().out)
    assert sorted(root.rglob("*")) == before

    checkpoint = root / "version_0" / "checkpoints" / "last.ckpt"
    model = NALSM.load_from_checkpoint(checkpoint, weights_only=True)
    data = DigitsDataModule(dtype="uint8", with_index=True)
    data.setup("test")
    items = spaced_items(join_batches(list(data.test_dataloader())), 100)
    counts = model.record(items).counts
    assert found["mean spikes per item"] == pytest.approx(float(counts.double().sum(1).mean()), rel=1e-3)
    assert found["separation rank"] == float(
        separation_rank(counts, items["label"], torch.Generator().manual_seed(0), 5, 3)
    )
    assert 0 < found["branching factor"] < 3
    assert 1 <= found["approximation rank"] <= 50


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--per_class", "90"], ["per_class=90", "1..9"]),
        (["--n_items", "0"], ["n_items=0"]),
        (["--noise_std", "-1"], ["std=-1"]),
        (["--data.init_args.with_index", "false"], ["with_index=True"]),
        (["--drawz", "3"], ["'draws'"]),
    ],
)
def test_a_mistake_gives_one_message_and_status_2(root, capsys, flags, words):
    command = ["diagnose-liquid", *RECIPE, "--trainer.default_root_dir", str(root), "--ckpt_path", "last"]
    assert main([*command, "--n_items", "100", *flags]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def test_diagnose_and_diagnose_liquid_name_each_other(root, tmp_path, capsys):
    rest = ["--trainer.default_root_dir", str(root), "--ckpt_path", "last"]
    assert main(["diagnose", *RECIPE, *rest]) == 2
    assert "diagnose-liquid" in capsys.readouterr().err
    recipe = tmp_path / "toy.yaml"
    recipe.write_text("model: {class_path: tests.cli.toys.ToyModule}\ndata: {class_path: tests.cli.toys.ToyData}\n")
    checkpoint = tmp_path / "any.ckpt"
    torch.save({"state_dict": {}}, checkpoint)
    assert main(["diagnose-liquid", "--config", str(recipe), "--ckpt_path", str(checkpoint)]) == 2
    assert "`plasticity diagnose` measures other networks" in capsys.readouterr().err
