"""The file of predictions: batch by batch, one a rank, complete or absent."""

from types import SimpleNamespace

import pytest
import torch

from plasticity_lightning.cli.predictions import PredictionFile


@pytest.mark.parametrize(("world", "name"), [(1, "predictions.pt"), (2, "predictions_1.pt")])
def test_the_file_holds_what_the_batches_gave(tmp_path, capsys, world, name):
    batches = [{"y": torch.arange(3)}, {"y": torch.arange(2)}]
    trainer = SimpleNamespace(world_size=world, global_rank=world - 1)
    PredictionFile(tmp_path / "run").write_on_epoch_end(trainer, None, batches, [])
    kept = torch.load(tmp_path / "run" / name, weights_only=True)
    assert [batch["y"].tolist() for batch in kept] == [[0, 1, 2], [0, 1]]
    assert str(tmp_path / "run" / name) in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
