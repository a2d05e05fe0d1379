"""Zeros in the weights are zeros in the masks at every forward pass, validation and checkpoint, whatever runs beside.

Random sets and orders of callbacks: interventions of the package, averages of Lightning, and strangers that write
weights through the gate and past it.
"""

import io

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging

from plasticity_lightning.callbacks import (
    AstrocyteFeedback,
    ContinualBackprop,
    L2Init,
    OneShotPruning,
    Parseval,
    PlasticityInjection,
    PruneRegrowScheduler,
    ReDo,
    Reset,
    ShrinkAndPerturb,
    SoftReset,
)
from plasticity_lightning.runtime import AtomicCheckpoint, changing_weights
from tests.callbacks.toy_networks import Classifier, images, trainer


class Learner(Classifier):
    """With a weight that an astrocyte sets, a validation that differs in length, and manual optimisation if asked for."""

    def __init__(self, optimizer, manual):
        super().__init__(optimizer)
        self.automatic_optimization = not manual

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        for _ in range(2):  # the second forward pass comes right after a step
            optimizer.zero_grad()
            self.manual_backward(torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()
        return None


class Rewrite(Callback):
    """A stranger: new weights everywhere after each batch, through the gate or past it, in place or not."""

    def __init__(self, how):
        self.how = how

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weights = [p for p in pl_module.parameters() if p.ndim > 1]
        if self.how == "gate":
            with changing_weights(pl_module):
                for weight in weights:
                    weight.add_(0.01)
        elif self.how == "in place":
            for weight in weights:
                weight.add_(0.01)
        elif self.how == "data":
            for weight in weights:
                weight.data += 0.01
        else:
            for weight in weights:
                weight.data = weight.data + 0.01


class NaNGradients(Callback):
    """A few entries of every gradient are not finite."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step % 5 == 3:
            for parameter in pl_module.parameters():
                if parameter.grad is not None and parameter.ndim > 1:
                    parameter.grad.view(-1)[::7] = float("nan")
                    parameter.grad.view(-1)[3::7] = float("inf")


class Save(Callback):
    """Takes checkpoints in the middle of a batch's end, whole or weights only."""

    def __init__(self, weights_only):
        self.weights_only, self.taken = weights_only, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx % 3 == 1:
            buffer = io.BytesIO()
            torch.save(trainer._checkpoint_connector.dump_checkpoint(self.weights_only), buffer)
            buffer.seek(0)
            masks = {name: mask.clone() for name, mask in self.masks().items()}
            self.taken.append((torch.load(buffer, weights_only=False), masks))


CALLBACKS = {
    "l2_init": lambda: L2Init(1e-2, decoupled=True),
    "l2_init_coupled": lambda: L2Init(1e-2, parameters="*.weight"),
    "soft_reset": lambda: SoftReset(1.0),
    "parseval": lambda: Parseval(1e-2),
    "redo": lambda: ReDo(tau=0.5, every=3),
    "reset": lambda: Reset("net.4", every=4),
    "continual_backprop": lambda: ContinualBackprop(rate=0.2, maturity=1),
    "shrink": lambda: ShrinkAndPerturb(0.5, every=3),
    "noise": lambda: ShrinkAndPerturb(0.5, noise_std=0.1, every=4),
    "injection": lambda: PlasticityInjection(["net.6"], at=5),
    "astrocyte": lambda: AstrocyteFeedback(target="net.4.weight", liquid="net.2", inputs="net.5"),
    "average": lambda: EMAWeightAveraging(decay=0.5),
    "swa": lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1),
    **{f"stranger, {how}": lambda how=how: Rewrite(how) for how in ("gate", "in place", "data", "replaced")},
    "nan": NaNGradients,
    "save": lambda: Save(False),
    "save_weights": lambda: Save(True),
}
KEEPERS = {
    **{name: lambda name=name: PruneRegrowScheduler(name, 0.8, every=3, summary=False) for name in
       ("granet", "granet_s2s", "gmp", "rigl", "set", "snip", "static_erk")},
    "fan_in": lambda: PruneRegrowScheduler("set", 0.8, every=3, structure="fan_in", summary=False),
    "one_shot": lambda: OneShotPruning(0.8),
    "one_shot_regrown": lambda: OneShotPruning(0.8, regenerate=True),
}  # fmt: skip
NEEDS_AUTOMATIC = {"swa"}


def outside(state, masks):
    """Number of weights of `state` that are not 0 outside the masks."""
    return sum(int((state[name][~mask] != 0).sum()) for name, mask in masks.items())


def run(keeper, names, position, optimizer="sgd", manual=False, epochs=2):
    """Train with the callbacks in this order; all that is looked at is looked at here."""
    torch.manual_seed(0)
    names = [name for name in names if not (manual and name in NEEDS_AUTOMATIC)]
    sparse, module = KEEPERS[keeper](), Learner(optimizer, manual)
    callbacks = [CALLBACKS[name]() for name in names]
    for callback in callbacks:
        if isinstance(callback, Save):
            callback.masks = lambda: sparse.masks
    callbacks.insert(min(position, len(callbacks)), sparse)
    seen = {True: 0, False: 0}

    def look(*_):
        seen[module.training] += 1
        found = outside(dict(module.named_parameters()), sparse.masks)
        assert found == 0, (found, module.training, fit.fit_loop.total_batch_idx)

    # before the layers are moved into an injectable head, so that it also sees that one's forward passes
    module.net.register_forward_pre_hook(look)
    fit = trainer(callbacks, max_epochs=epochs, val_check_interval=4, num_sanity_val_steps=1)
    fit.fit(module, images(48), images(8))
    assert seen[True] >= 12
    assert seen[False] >= 2
    assert outside(dict(module.named_parameters()), sparse.masks) == 0
    taken = [saved for callback in callbacks if isinstance(callback, Save) for saved in callback.taken]
    for checkpoint, masks in taken:
        for key in {"state_dict", "current_model_state"} & checkpoint.keys():
            assert outside(checkpoint[key], masks) == 0
    return module, sparse


anything = given(
    keeper=st.sampled_from(sorted(KEEPERS)),
    names=st.lists(st.sampled_from(sorted(CALLBACKS)), max_size=5, unique=True),
    position=st.integers(0, 5),
    optimizer=st.sampled_from(["sgd", "adam"]),
    manual=st.booleans(),
)


def check(keeper, names, position, optimizer, manual):
    if {"average", "swa"} <= set(names):  # two masters of the averaged weights
        names = [name for name in names if name != "swa"]
    run(keeper, names, position, optimizer, manual)


@anything
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example("granet", ["l2_init", "shrink", "average", "save_weights", "stranger, data"], 0, "adam", False)
@example("granet", ["stranger, replaced", "save", "continual_backprop", "redo", "nan"], 5, "sgd", True)
@example("one_shot_regrown", ["injection", "soft_reset", "swa", "save", "noise"], 2, "adam", False)
@example("rigl", ["average", "save", "injection"], 1, "sgd", False)
def test_zeros_of_the_masks_are_zeros_of_the_weights(keeper, names, position, optimizer, manual):
    check(keeper, names, position, optimizer, manual)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@anything
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_zeros_of_the_masks_are_zeros_of_the_weights_in_many_runs(keeper, names, position, optimizer, manual):
    check(keeper, names, position, optimizer, manual)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("name", ["l2_init", "soft_reset", "reset", "shrink", "noise", "parseval"])
def test_where_nothing_grows_the_zeros_are_exactly_those_of_the_masks(name, position):
    module, sparse = run("static_erk", [name], position)
    for parameter, mask in sparse.masks.items():
        assert torch.equal(module.get_parameter(parameter).detach() != 0, mask)


@pytest.mark.parametrize("position", [0, 1])
def test_an_injection_into_a_sparse_head_does_not_change_the_output(position):
    outputs = {}

    class Watch(Callback):
        def __init__(self, when):
            self.when = when

        def on_train_batch_end(self, trainer, pl_module, outputs_, batch, batch_idx):
            pl_module.eval()
            outputs[self.when, trainer.global_step] = pl_module.net(batch[0]).detach()
            pl_module.train()

    torch.manual_seed(0)
    module, sparse = Classifier(), PruneRegrowScheduler("static_erk", 0.8, every=3, summary=False)
    callbacks = [PlasticityInjection(["net.6"], at=5)]
    callbacks.insert(position, sparse)
    trainer([Watch("before"), *callbacks, Watch("after")], max_epochs=1).fit(module, images(48))
    assert torch.equal(outputs["before", 5], outputs["after", 5])
    head = module.net[6]
    mask = sparse.masks["net.6.learner.weight"]
    assert head.injected
    assert torch.equal(head.reference.weight != 0, mask)
    assert not torch.equal(head.learner.weight, head.reference.weight)  # and it has learnt since


@pytest.mark.parametrize("position", [0, 1])
def test_new_units_read_as_many_inputs_at_the_same_places_as_the_old_ones(position):
    torch.manual_seed(0)
    module = Classifier()
    sparse = PruneRegrowScheduler("static_erk", 0.5, structure="fan_in", summary=False)
    redo, masks = ReDo(tau=10.0, at=[3], modules=["net.4"]), {}

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            masks[trainer.global_step] = {name: mask.clone() for name, mask in sparse.masks.items()}
            if trainer.global_step == 4:  # the batch after the event is due is watched
                self.incoming = pl_module.net[4].weight.detach().clone()
                self.outgoing = pl_module.net[6].weight.detach().clone()

    callbacks, watch = [redo], Watch()
    callbacks.insert(position, sparse)
    run = trainer([*callbacks, watch], max_epochs=1)
    run.fit(module, images(48))
    assert run.callback_metrics["intervention/redo/units"] == 12  # with so high a threshold all are dormant
    for name in masks[3]:
        assert torch.equal(masks[3][name], masks[4][name])
    mask = masks[4]["net.4.weight"]
    assert len(set(mask.sum(1).tolist())) == 1
    assert torch.equal(watch.incoming != 0, mask)  # drawn anew, and sparse
    assert not watch.outgoing.any()


def test_the_checkpoint_of_an_exception_is_sparse_too(tmp_path):
    class Fail(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 2:
                with torch.no_grad():
                    pl_module.net[4].weight.add_(1.0)  # past the gate
                raise RuntimeError("stop")

    sparse = PruneRegrowScheduler("static_erk", 0.8, summary=False)
    saver = AtomicCheckpoint(str(tmp_path))
    with pytest.raises(RuntimeError, match="stop"):
        trainer([sparse, Fail(), saver], enable_checkpointing=True).fit(Classifier(), images(48))
    assert outside(torch.load(tmp_path / "exception.ckpt")["state_dict"], sparse.masks) == 0
