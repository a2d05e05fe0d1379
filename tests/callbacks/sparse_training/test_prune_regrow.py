"""PruneRegrowScheduler on strangers' modules: every training style, resume, averages, logs, errors."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from plasticity_lightning.callbacks import OneShotPruning, PruneRegrowScheduler
from plasticity_lightning.callbacks.sparse_training.report import layer_table, mask_image
from plasticity_lightning.callbacks.sparse_training.scoring import hessian_gradients
from plasticity_lightning.runtime import AtomicCheckpoint, ResumableDataLoader
from plasticity_lightning.sparsity.export import masks_of, strip
from plasticity_lightning.sparsity.methods import Method
from plasticity_lightning.sparsity.selection import LayerKind
from tests.callbacks.toy_networks import ActorCritic, Classifier, Reservoir, images, trainer, transitions
from tests.sparsity import reference


def scheduler(method="granet", **options):
    return PruneRegrowScheduler(method, **{"every": 3, "summary": False, **options})


def sparsity_of(module, masks):
    weights = torch.cat([module.get_parameter(name).detach().flatten() for name in masks])
    return float((weights == 0).float().mean())


class Watch(Callback):
    """After every batch: no weight outside the masks; remembers how the masks were."""

    def __init__(self, sparse):
        self.sparse, self.history = sparse, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for name, mask in self.sparse.masks.items():
            assert not pl_module.get_parameter(name)[~mask].any()
        self.history.append({name: mask.clone() for name, mask in self.sparse.masks.items()})


@pytest.mark.parametrize("method", ["granet", "granet_s2s", "gmp", "set", "rigl", "snip", "grasp", "static_random"])
def test_every_method_reaches_its_sparsity_on_a_plain_classifier(method):
    torch.manual_seed(0)
    module, sparse = Classifier(), scheduler(method, sparsity=0.8)
    fit = trainer([sparse, Watch(sparse)])
    fit.fit(module, images())
    total = sum(mask.numel() for mask in sparse.masks.values())
    living = sum(int(mask.sum()) for mask in sparse.masks.values())
    assert abs(living - 0.2 * total) < 1
    assert set(sparse.masks) == {"net.0.weight", "net.4.weight", "net.6.weight"}
    assert float(fit.callback_metrics["sparsity/global"]) == pytest.approx(1 - living / total)
    assert 0 < fit.callback_metrics["sparsity/training_flops"] < 1
    assert list(module.state_dict()) == list(Classifier().state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["granet", "set", "srigl"])
def test_resume_is_bitwise(tmp_path, optimizer, method):
    def run(epochs, seed=1, ckpt=None):
        torch.manual_seed(seed)
        module, sparse = Classifier(optimizer), scheduler(method, sparsity=0.8, total_steps=24, regrow_end=1.0)
        saver = ModelCheckpoint(tmp_path / str(epochs), save_last=True)
        fit = trainer([sparse, saver], max_epochs=epochs, enable_checkpointing=True)
        fit.fit(module, images(), ckpt_path=ckpt)
        return module, sparse

    whole, masks = run(3)
    _, interrupted = run(2)
    assert interrupted.groups[0].step == 16
    resumed, resumed_masks = run(3, seed=99, ckpt=tmp_path / "2" / "last.ckpt")
    assert resumed_masks.groups[0].step == 24
    assert resumed_masks.groups[0].n_updates == masks.groups[0].n_updates > interrupted.groups[0].n_updates
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    first, second = masks.state_dict()["groups"][0], resumed_masks.state_dict()["groups"][0]
    assert torch.equal(first["generator"], second["generator"])
    assert first["flops"] == second["flops"]
    for name in first["masks"]:
        assert torch.equal(first["masks"][name], second["masks"][name])
        assert torch.equal(first["ever_active"][name], second["ever_active"][name])


def test_a_sparse_checkpoint_loads_into_the_plain_module(tmp_path):
    sparse = scheduler(sparsity=0.8)
    module = Classifier()
    trainer([sparse, ModelCheckpoint(tmp_path, save_last=True)], enable_checkpointing=True).fit(module, images())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    (state,) = [value for key, value in checkpoint["callbacks"].items() if key.startswith("PruneRegrow")]
    assert all(packed.dtype == torch.uint8 for packed in state["groups"][0]["masks"].values())
    masks = masks_of(state["groups"][0]["masks"], state["groups"][0]["shapes"])
    plain = strip(checkpoint["state_dict"], masks)
    fresh = Classifier()
    fresh.load_state_dict(plain)
    assert sparsity_of(fresh, masks) == pytest.approx(0.8, abs=1e-2)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])


class Recorder(Callback):
    """Gradients at the optimiser step, before clipping."""

    def __init__(self):
        self.gradients = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})


def test_growth_uses_the_accumulated_gradient_before_clipping():
    class Still(Classifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.0)  # only masks move

    torch.manual_seed(0)
    module, record = Still(), Recorder()
    # one update, after step 2 of 4; clipping by value would flatten the gradients to ties
    sparse = scheduler("rigl", sparsity=0.5, every=2, prune_rate_schedule="constant", regrow_end="3 steps")
    watch = Watch(sparse)
    fit = trainer(
        [sparse, record, watch],
        max_epochs=1,
        accumulate_grad_batches=2,
        gradient_clip_val=1e-4,
        gradient_clip_algorithm="value",
    )
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    fit.fit(module, images())
    assert len(record.gradients) == 4  # 8 batches, two a step
    before, after = watch.history[2], watch.history[3]
    for name, mask in before.items():
        expected = reference.regenerate(
            (weights[name] * mask).numpy(), mask.numpy().astype(int), 0.3, record.gradients[1][name].numpy()
        )
        assert (after[name].numpy().astype(int) == expected).all()
    assert not torch.equal(after["net.4.weight"], before["net.4.weight"])


def test_actor_critic_by_hand_with_two_adams_leaves_the_target_alone():
    torch.manual_seed(0)
    module = ActorCritic()
    sparse = scheduler(sparsity=0.8, include=["critic*"], total_steps=72)
    fit = trainer([sparse, Watch(sparse)])
    fit.fit(module, transitions())
    assert set(sparse.masks) == {"critic.0.weight", "critic.2.weight"}
    assert sparse.groups[0].step == 72  # its own optimiser's steps; the Trainer counted both
    assert fit.global_step == 72 + 36
    assert sparsity_of(module, sparse.masks) == pytest.approx(0.8, abs=0.01)
    assert (module.critic_target[0].weight != 0).all()
    assert (module.actor[0].weight != 0).all()


def test_two_optimisers_have_their_own_masks_and_counters():
    torch.manual_seed(0)
    module, sparse = ActorCritic(), scheduler(sparsity=0.8, prune_end="24 steps")
    trainer([sparse, Watch(sparse)]).fit(module, transitions())
    actor, critic = sparse.groups
    assert (actor.step, critic.step) == (36, 72)
    assert set(actor.parameters) == {"actor.0.weight", "actor.2.weight"}
    for group in (actor, critic):
        total = sum(mask.numel() for mask in group.masks.values())
        assert abs(sum(group.living.values()) - 0.2 * total) < 1


def test_recurrent_weights_of_a_reservoir_under_a_local_rule():
    module = Reservoir()
    sparse = scheduler(sparsity=0.75, include=["recurrent"])
    data = torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(0))
    watch = Watch(sparse)
    trainer([sparse, watch]).fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    assert sparse.groups[0].living == {"recurrent": 100}  # of 400
    assert not torch.equal(watch.history[-1]["recurrent"], watch.history[-10]["recurrent"])  # it regrows


def test_unwrapped_optimiser_steps_are_seen():
    class Raw(Classifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.net(batch[0]), batch[1]).backward()
            optimizer.step()

    sparse = scheduler(sparsity=0.8)
    trainer([sparse, Watch(sparse)]).fit(Raw(), images())
    assert sparse.groups[0].step == 24
    assert sparse.groups[0].n_updates == 7


def test_mixed_precision_keeps_masks():
    sparse = scheduler(sparsity=0.8)
    trainer([sparse, Watch(sparse)], precision="bf16-mixed").fit(Classifier(), images())
    assert sparse.groups[0].n_updates == 7


@pytest.mark.parametrize(
    "average", [lambda: EMAWeightAveraging(decay=0.9), lambda: StochasticWeightAveraging(0.01, swa_epoch_start=1)]
)
def test_averaged_weights_are_sparse_too(average):
    torch.manual_seed(0)
    module, sparse = Classifier(), scheduler(sparsity=0.8)
    trainer([sparse, average()], max_epochs=6).fit(module, images())  # several masks enter one average
    for name, mask in sparse.masks.items():
        assert not module.get_parameter(name)[~mask].any()
        assert module.get_parameter(name)[mask].any()


def test_shared_weights_are_masked_once():
    class Tied(Classifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36), nn.Linear(36, 3))
            self.net[3].weight = self.net[1].weight

    sparse = scheduler(sparsity=0.8)
    trainer([sparse, Watch(sparse)]).fit(Tied(), images())
    assert set(sparse.masks) == {"net.1.weight", "net.4.weight"}
    assert sparse.groups[0].flops.positions["net.1.weight"] == 2  # used twice a sample


def test_structure_policy_and_floors():
    sparse = scheduler("rigl", sparsity=0.5, structure="2:4", include=["net.4.weight"])
    trainer([sparse, Watch(sparse)], max_epochs=1).fit(Classifier(), images())
    groups = sparse.masks["net.4.weight"].view(-1, 4).sum(1)
    assert (groups == 2).all()
    sparse = scheduler("gmp", prune="uniform", allocation="uniform", min_density={"net.6*": 0.5}, first_layer="dense")
    trainer([sparse]).fit(Classifier(), images())
    assert set(sparse.masks) == {"net.4.weight", "net.6.weight"}
    assert int(sparse.masks["net.6.weight"].sum()) == 18


def test_what_tensorboard_gets_and_the_table_says(tmp_path, capsys):
    logger = TensorBoardLogger(tmp_path)
    sparse = PruneRegrowScheduler(every=3, sparsity=0.8)
    trainer([sparse], logger=logger, log_every_n_steps=4).fit(Classifier(), images())
    events = EventAccumulator(logger.log_dir, {"images": 0}).Reload()
    tags = events.Tags()
    assert {"sparsity/global", "sparsity/inference_flops", "sparsity_layer/net.4.weight"} <= set(tags["scalars"])
    assert "mask/net.0.weight" in tags["images"]
    # d2s: events 3, 6, ..., 21 regenerate; the first four prune (k1 = 4), the values are logged once each
    assert [e.value for e in events.Scalars("sparsity_update/pruned")][4:] == [0, 0, 0]
    dropped = [e.value for e in events.Scalars("sparsity_update/dropped")]
    assert dropped == [e.value for e in events.Scalars("sparsity_update/grown")]
    assert len(dropped) == 7
    assert sorted(dropped, reverse=True) == dropped
    printed = capsys.readouterr().out
    assert "net.4.weight" in printed
    assert "exploration rate" in printed


def test_logging_counts_batches_over_all_epochs(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    # an epoch has 8 batches; static masks give no news of their own after the first batch
    trainer([scheduler("static_random")], logger=logger, log_every_n_steps=6).fit(Classifier(), images())
    events = EventAccumulator(logger.log_dir).Reload().Scalars("sparsity/global")
    assert {5, 11, 17, 23} <= {event.step for event in events}


def test_mask_image_shows_places():
    mask = torch.zeros(4, 600, dtype=torch.bool)
    mask[0, :300] = True
    image = mask_image(mask, pixels=2)
    assert image.tolist() == [[[0.5, 0.0], [0.0, 0.0]]]


def test_grasp_differentiates_the_loss_twice_without_logging():
    class Quadratic(Classifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 1, bias=False)

        def training_step(self, batch, batch_idx):
            loss = (torch.tensor([3.0, 1.0]) * self.net.weight**2).sum() / 2
            self.log("loss", loss)
            return {"loss": loss}

    module = Quadratic()
    module.net.weight.data.fill_(1.0)
    products = hessian_gradients(trainer([]), module, None, 0, {"net.weight": module.net.weight})
    assert products["net.weight"].tolist() == [[9.0, 1.0]]
    assert "log" not in vars(module)
    assert module.net.weight.grad is None


def test_table_counts_dead_units_where_outputs_are_known():
    sparse = scheduler("static_random", sparsity=0.95)
    trainer([sparse], max_epochs=1).fit(Classifier(), images())
    layouts = dict(zip(sparse.masks, [LayerKind(), LayerKind(outputs_first=False), None], strict=True))
    dead = list(layer_table(sparse.groups, layouts).columns[5].cells)[:3]
    first, second, _ = sparse.masks.values()
    assert dead == [str(int((~first.flatten(1).any(1)).sum())), str(int((~second.any(0)).sum())), ""]


def test_hooks_go_with_the_end_and_with_an_exception():
    class Failing(Classifier):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("stop")
            return super().training_step(batch, batch_idx)

    sparse = scheduler()
    with pytest.raises(RuntimeError, match="stop"):
        trainer([sparse]).fit(Failing(), images())
    sparse, module = scheduler(), Classifier()
    running = trainer([sparse])
    running.fit(module, images())
    optimizer = running.optimizers[0]
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not module.net[0]._forward_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_batches": 0}, "score_batches=0"),
        ({"mask_moments": "never"}, "mask_moments must be one of"),
        ({"total_steps": 0}, "total_steps=0"),
        ({"min_density": {"a": 0.2}}, "needs layer-wise counts"),
        ({"grow_by": "momentum", "mask_moments": "step"}, "needs mask_moments='update'"),
        ({"grow_by": "gradeint"}, "did you mean 'gradient'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PruneRegrowScheduler(**options)


def test_refused_before_training():
    sparse = scheduler()
    fit = trainer([sparse])
    fit.strategy.__class__ = FSDPStrategy  # a real one needs a GPU
    with pytest.raises(MisconfigurationException, match="FSDP"):
        sparse.setup(fit, Classifier(), "fit")
    with pytest.raises(MisconfigurationException, match="init_by='grasp' differentiates"):
        trainer([scheduler("grasp")]).fit(ActorCritic(), transitions())
    with pytest.raises(MisconfigurationException, match="include='head' matches no parameter"):
        trainer([scheduler(include=["head"])]).fit(Classifier(), images())
    with pytest.raises(MisconfigurationException, match="no optimiser updates"):
        trainer([scheduler(include=["critic_target.0.weight"])]).fit(ActorCritic(), transitions())
    with pytest.raises(MisconfigurationException, match="length is unknown or infinite"):
        trainer([scheduler()], max_epochs=-1).fit(Classifier(), images())
    with pytest.raises(MisconfigurationException, match="holds no update with every=1000"):
        trainer([scheduler(every=1000)]).fit(Classifier(), images())


def test_two_schedulers_need_two_names():
    assert scheduler(name="a").state_key != scheduler(name="b").state_key


@pytest.mark.slow
def test_compiled_module_is_masked_in_place():
    module = Classifier()
    module.net.compile()
    sparse = scheduler(sparsity=0.8)
    trainer([sparse, Watch(sparse)]).fit(module, images())
    assert sparsity_of(module, sparse.masks) == pytest.approx(0.8, abs=0.01)


_SCRIPT = """
import sys
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from plasticity_lightning.callbacks import OneShotPruning, PruneRegrowScheduler
from tests.callbacks.toy_networks import Classifier, images

method, path = sys.argv[1:]
torch.manual_seed(0)
module = Classifier()
sparse = PruneRegrowScheduler(method, every=2, sparsity=0.8, summary=False)
trainer = Trainer(max_epochs=3, accelerator="cpu", devices=2, logger=False, enable_progress_bar=False,
    enable_checkpointing=False, strategy=DDPStrategy(process_group_backend="gloo"), callbacks=[sparse])
torch.manual_seed(trainer.global_rank)
trainer.fit(module, images())
torch.save({"masks": sparse.masks, "state": module.state_dict(), "updates": sparse.groups[0].n_updates},
    f"{path}/rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["granet", "set", "srigl"])
def test_two_ranks_have_one_mask(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script), method, str(tmp_path)],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert first["updates"] == second["updates"] > 2
    for name, mask in first["masks"].items():
        assert torch.equal(mask, second["masks"][name])
        assert torch.equal(first["state"][name], second["state"][name])
        assert not first["state"][name][~mask].any()


@pytest.mark.parametrize("keeper", [lambda: scheduler(sparsity=0.8, total_steps=24), lambda: OneShotPruning(0.8)])
def test_a_sparse_run_is_not_resumed_without_what_keeps_its_masks(tmp_path, keeper):
    def run(callbacks, epochs, ckpt=None, **options):
        saver = AtomicCheckpoint(str(tmp_path), **options)
        fit = trainer([*callbacks, saver], max_epochs=epochs, enable_checkpointing=True)
        fit.fit(Classifier(), images(), ckpt_path=ckpt)

    run([keeper()], 1)
    last = tmp_path / "last.ckpt"
    with pytest.raises(MisconfigurationException, match=r"which is missing here.*zeros of a sparse network"):
        run([], 2, last)
    run([], 2, last, override=True)
    run([keeper()], 3, last)


class Order(Callback):
    """The batches that training saw, by their first number, and the masks after each."""

    def __init__(self, sparse):
        self.sparse, self.seen, self.masks = sparse, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(float(batch[0].flatten()[0]))
        self.masks.append({name: mask.clone() for name, mask in self.sparse.masks.items()})


@pytest.mark.parametrize("stop", [3, 11, 15])
@pytest.mark.parametrize("prune_end", [0.8, "2 epochs"])
def test_a_resume_inside_an_epoch_goes_on_with_the_next_batch(tmp_path, stop, prune_end):
    def run(module, ckpt=None, **options):
        sparse = scheduler(sparsity=0.8, prune_end=prune_end, every=2)
        order, loader = Order(sparse), ResumableDataLoader(images().dataset, batch_size=8, shuffle=True, seed=3)
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=stop, save_top_k=-1)
        fit = trainer([sparse, order, saver], enable_checkpointing=True, **options)
        fit.fit(module, loader, ckpt_path=ckpt)
        return order

    torch.manual_seed(0)
    whole_module = Classifier()
    whole = run(whole_module)
    torch.manual_seed(9)
    resumed_module = Classifier()
    resumed = run(resumed_module, tmp_path / f"step={stop}.ckpt")
    assert len(set(whole.seen[:8])) == 8  # of 8 batches an epoch
    assert resumed.seen == whole.seen[stop:]
    for ours, theirs in zip(resumed.masks, whole.masks[stop:], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name, tensor in whole_module.state_dict().items():
        assert torch.equal(tensor, resumed_module.state_dict()[name])


def test_every_option_of_a_method_is_an_argument():
    arguments = inspect.signature(PruneRegrowScheduler).parameters
    assert {option.name for option in dataclasses.fields(Method)} <= set(arguments)
    assert len(arguments) == 37
    given = {
        "prune_rate": 0.2,
        "score_batches": 3,
        "mask_moments": "step",
        "drop_threshold": 0.1,
        "structure": "fan_in",
    }
    method = PruneRegrowScheduler("granet", **given).method
    assert {name: getattr(method, name) for name in given} == given


class Experts(Classifier):
    """Of two experts one is never used."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 40) for _ in range(2))

    def training_step(self, batch, batch_idx):
        return self.experts[0](self.net(batch[0])).square().mean()


@pytest.mark.parametrize("method", ["gmp", "granet", "set"])
def test_an_unused_expert_is_as_sparse_as_the_run_says_and_named_once_if_it_does_not_grow(method, recwarn):
    torch.manual_seed(0)
    module, sparse = Experts(), scheduler(method, sparsity=0.8)
    fit = trainer([sparse, Watch(sparse)])
    fit.fit(module, images())
    living = sum(int(mask.sum()) for mask in sparse.masks.values())
    assert living == int(0.2 * sum(mask.numel() for mask in sparse.masks.values()))
    assert "experts.1.weight" in sparse.masks
    told = [str(w.message) for w in recwarn if "no batch has used" in str(w.message)]
    assert len(told) == (method == "granet")
    assert all("experts.1.weight" in text and "exchanged" in text for text in told)
    if method == "granet":  # what is left of the expert is as it was drawn
        torch.manual_seed(0)
        assert torch.equal(module.experts[1].weight, Experts().experts[1].weight * sparse.masks["experts.1.weight"])
