"""The classifier: its loss, metrics, schedules, groups; any network; errors."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from plasticity_lightning.modules import ImageClassifier

TINY = {"network": "lenet_300_100", "network_arguments": {"n_inputs": 4, "n_classes": 3, "widths": [5]}, "n_classes": 3}


def loader(n=12, batch_size=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 2, 2, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(n) % 3), batch_size=batch_size)


def trainer(tmp_path, **arguments):
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
    }
    return pl.Trainer(**{**settings, **arguments})


class Rates(pl.Callback):
    """Records the learning rate that each step was taken with."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


def sgd(params):
    return torch.optim.SGD(params, lr=0.8)


def test_loss_and_accuracy_are_those_of_the_whole_data(tmp_path):
    torch.manual_seed(0)
    module = ImageClassifier(**TINY, label_smoothing=0.1)
    batches = loader(n=10)  # 4 + 4 + 2: an average of batch averages would differ
    logged = trainer(tmp_path).validate(module, batches, verbose=False)[0]
    images, labels = batches.dataset.tensors
    logits = module.eval()(images)
    # smoothing 0.1 over 3 classes: 0.9 of the right class's -log p, 0.1 of the mean over classes
    minus_log_p = -logits.log_softmax(1)
    expected = (0.9 * minus_log_p[torch.arange(10), labels] + 0.1 * minus_log_p.mean(1)).mean()
    assert logged["val/loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert logged["val/accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_it_logs_training_validation_and_test(tmp_path):
    run = trainer(tmp_path)
    module = ImageClassifier(**TINY, optimizer=sgd)
    run.fit(module, loader(), loader())
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(run.callback_metrics)
    assert set(run.test(module, loader(), verbose=False)[0]) == {"test/loss", "test/accuracy"}
    probabilities = run.predict(module, loader())
    assert torch.cat(probabilities).sum(1).allclose(torch.ones(12))


def test_it_learns(tmp_path):
    torch.manual_seed(0)
    images = torch.eye(3).repeat(20, 1).view(60, 1, 1, 3)
    data = DataLoader(TensorDataset(images, torch.arange(60) % 3), batch_size=10)
    module = ImageClassifier("lenet_300_100", {"n_inputs": 3, "n_classes": 3, "widths": [8]}, 3, optimizer=sgd)
    run = trainer(tmp_path, max_epochs=20)
    run.fit(module, data)
    assert run.validate(module, data, verbose=False)[0]["val/accuracy"] == 1.0


def test_the_learning_rate_is_warmed_up_over_batches_then_scheduled(tmp_path):
    def decay(optimizer):
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2], gamma=0.1)

    module = ImageClassifier(**TINY, optimizer=sgd, lr_scheduler=decay, warmup_epochs=4 / 3)
    rates = Rates()
    run = trainer(tmp_path, max_epochs=3, callbacks=[rates])
    run.fit(module, loader())  # 3 batches an epoch: 4 batches of warm-up
    assert rates.seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.08, 0.08, 0.08])


def test_the_schedule_can_step_with_the_batches(tmp_path):
    def halve(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    rates = Rates()
    module = ImageClassifier(**TINY, optimizer=sgd, lr_scheduler=halve, interval="step")
    trainer(tmp_path, max_epochs=1, callbacks=[rates]).fit(module, loader())
    assert rates.seen == pytest.approx([0.8, 0.4, 0.2])


def test_weight_decay_can_spare_norms_and_biases():
    def decayed(params):
        return torch.optim.SGD(params, lr=0.1, weight_decay=0.5)

    arguments = {"network": "small_conv_net", "network_arguments": {"widths": [4], "depths": [1]}, "optimizer": decayed}
    optimizer = ImageClassifier(**arguments, decay_norm_and_bias=False).configure_optimizers()
    shapes = {group["weight_decay"]: [tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups}
    assert shapes == {0.5: [(4, 3, 3, 3), (10, 4)], 0.0: [(4,), (4,), (10,)]}
    assert len(ImageClassifier(**arguments).configure_optimizers().param_groups) == 1


def test_the_default_optimizer_is_sgd_with_momentum():
    optimizer = ImageClassifier(**TINY).configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9


def test_any_network_serves_by_its_import_path(tmp_path):
    module = ImageClassifier("torch.nn.Flatten", {}, n_classes=4)
    assert isinstance(module.network, nn.Flatten)
    assert module(torch.zeros(2, 1, 2, 2)).shape == (2, 4)


def test_channels_last_changes_the_layout_and_not_the_result():
    plain = ImageClassifier("small_conv_net").eval()
    other = ImageClassifier("small_conv_net", channels_last=True).eval()
    other.load_state_dict(plain.state_dict())
    assert other.network.features[0].weight.is_contiguous(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 32, 32)
    assert torch.allclose(plain(image), other(image), atol=1e-5)


def test_a_checkpoint_made_without_the_command_line_loads_again(tmp_path):
    module = ImageClassifier(**TINY, optimizer=sgd)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_too_few_logits_are_told(tmp_path):
    module = ImageClassifier("lenet_300_100", {"n_inputs": 4, "n_classes": 2}, n_classes=3)
    with pytest.raises(MisconfigurationException, match="returns 2 logits and n_classes is 3"):
        trainer(tmp_path).validate(module, loader(), verbose=False)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"n_classes": 1}, "n_classes must be at least 2, got 1"),
        ({"interval": "batch"}, "interval must be 'epoch' or 'step', got 'batch'"),
        ({"warmup_epochs": -1}, "warmup_epochs must not be negative, got -1"),
        ({"label_smoothing": 1.0}, "label_smoothing must lie in"),
        ({"network": "lenet_300"}, "did you mean 'lenet_300_100'"),
    ],
)
def test_impossible_arguments_are_named(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        ImageClassifier(**{**TINY, **arguments})


def test_a_warm_up_needs_data_with_a_length(tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield torch.zeros(1, 2, 2), 0

    module = ImageClassifier(**TINY, warmup_epochs=1)
    with pytest.raises(MisconfigurationException, match="needs training data with a length"):
        trainer(tmp_path, max_steps=2).fit(module, DataLoader(Endless(), batch_size=2))
