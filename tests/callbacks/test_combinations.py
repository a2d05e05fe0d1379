"""Callbacks that serve one run together: none disturbs the other, whatever their order in the list."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn
from torch._dynamo import eval_frame
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

from plasticity_lightning.callbacks import (
    ContinualBackprop,
    L2Init,
    ModuleTransform,
    Parseval,
    PlasticityInjection,
    PlasticityMonitor,
    PruneRegrowScheduler,
    ReDo,
    Reset,
)
from plasticity_lightning.networks import MLP
from plasticity_lightning.networks.small import SmallCNN
from tests.callbacks.toy_networks import Classifier, images, trainer

# every kind of measure, those that differentiate (with functorch) and that train a copy among them
MEASURES = ["fau", "dormant", "zero_grad_units", "activation_norm", "srank", "weight_norm", "grad_norm", "update_ratio",
            "ntk_rank", "sharpness", "probe_loss"]  # fmt: skip


class Learner(LightningModule):
    """A stranger's classifier that calls itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Functional(nn.Module):
    """Its nonlinearities are functions, one of them in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.output = nn.Conv2d(1, 4, 3), nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.output(functional.relu_(self.hidden(functional.relu(self.conv(x)).flatten(1))))


NETWORKS = {
    "mlp": (lambda: MLP(36, 3, width=8, depth=3), {"network.hidden_1", "network.hidden_2", "network.hidden_3"}),
    "cnn": (lambda: SmallCNN((1, 6, 6), 3, width=4, blocks=1, hidden=8), {"network.conv_1", "network.hidden"}),
    "functional": (Functional, {"network.conv", "network.hidden"}),
}


def learner(network: str) -> Learner:
    torch.manual_seed(0)
    return Learner(NETWORKS[network][0]())


def monitor():
    expensive = dict.fromkeys(["ntk_rank", "sharpness", "probe_loss"], 100)  # at the first batch only
    return PlasticityMonitor(MEASURES, every=dict.fromkeys(MEASURES, 2) | expensive, probe_steps=2, probe_size=4)


INTERVENTIONS = {
    "continual_backprop": lambda: ContinualBackprop(rate=0.2, maturity=1),
    "redo": lambda: ReDo(tau=0.5, every=1),
}


def together(callbacks: list[Callback], order: int, network: str) -> Learner:
    module = learner(network)
    trainer(callbacks[::-1] if order else callbacks, max_epochs=1).fit(module, images(32))
    assert _get_current_function_mode_stack() == []
    assert eval_frame._stance.stance == "default"
    return module


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_units_are_replaced_as_without_the_monitor(network, intervention, order, recwarn):
    by_itself = INTERVENTIONS[intervention]()
    alone = together([by_itself], 0, network)
    acting, watching = INTERVENTIONS[intervention](), monitor()
    watched = together([watching, acting], order, network)
    assert not [w for w in recwarn if "alone" in str(w.message)]
    graph = acting._watch.graph
    assert {name for name, layer in graph.items() if layer.replaceable} == NETWORKS[network][1]
    if intervention == "continual_backprop":
        assert acting.replaced == by_itself.replaced > 0
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert {f"plasticity/{m}/network" for m in MEASURES} <= watching.latest.keys()


@pytest.mark.parametrize("order", [0, 1])
def test_the_monitor_reads_the_same_beside_a_trace(order):
    values = []
    for callbacks in ([], [ContinualBackprop(rate=0.0)]):
        watching = monitor()
        together([watching, *callbacks], order, "functional")
        values.append(watching.latest)
    assert values[0].keys() == values[1].keys()
    for key, value in values[0].items():
        assert torch.equal(value, values[1][key]), key


@pytest.mark.parametrize("order", [0, 1])
def test_compiled_code_is_eager_while_both_watch_and_compiled_again_afterwards(order):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    module = learner("mlp")
    module.network.compile(backend=backend)
    callbacks = [PlasticityMonitor(["fau"], every=1), ReDo(tau=0.5, at=[1])]
    trainer(callbacks[::-1] if order else callbacks, max_epochs=1).fit(module, images(16))
    assert not compiled
    module(torch.randn(2, 1, 6, 6))
    assert compiled


class SparsityTrace(Callback):
    """Zeros among the masked weights, and outside the masks, after every batch. Listed last."""

    def __init__(self, sparse: PruneRegrowScheduler) -> None:
        self.sparse, self.outside, self.exact = sparse, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        masks = self.sparse.masks
        weights = {name: pl_module.get_parameter(name).detach() for name in masks}
        self.outside.append(sum(int(weights[name][~mask].count_nonzero()) for name, mask in masks.items()))
        self.exact.append(all(torch.equal(weights[name] != 0, mask) for name, mask in masks.items()))


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("intervention", ["reset", "redo"])
def test_weights_are_as_sparse_as_their_masks_at_once_after_an_intervention(intervention, order):
    torch.manual_seed(0)
    # nothing is pruned or regrown any more when the intervention acts, at update 10
    sparse = PruneRegrowScheduler("static_random", sparsity=0.8, every=3, summary=False)
    acting = Reset(at=[10]) if intervention == "reset" else ReDo(tau=0.9, at=[9])
    trace = SparsityTrace(sparse)
    callbacks = [sparse, acting]
    run = trainer([*(callbacks[::-1] if order else callbacks), trace], max_epochs=2)
    module = Classifier("adam")
    run.fit(module, images())
    assert run.callback_metrics[f"intervention/{intervention}/events"] == 1
    assert not any(trace.outside)
    assert trace.exact[-1]


def test_a_measure_of_the_monitor_triggers_a_reset_and_is_whole_again():
    module = learner("mlp")
    module.network.hidden_2.bias.data.fill_(-100.0)  # its 8 units are silent: fau is at most 2/3
    reset = Reset("network.hidden_2", trigger="plasticity/fau/network < 0.4", refractory=100)
    watching = PlasticityMonitor(["fau"], every=1, per_layer=True)
    seen = []

    class Read(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((float(trainer.callback_metrics["plasticity/fau/network"]), reset.events))

    run = trainer([watching, reset, Read()], max_epochs=1, log_every_n_steps=1)
    run.fit(module, images())
    assert seen[0][0] < 0.4
    assert [events for _, events in seen] == [1] * len(seen)  # in the batch that was measured, and once
    assert watching.latest["plasticity/fau/network/network.act_2"] > 0
    assert module.network.hidden_2.bias.abs().max() < 1


class Manual(Classifier):
    """Steps by hand if asked to."""

    def __init__(self, manual):
        super().__init__()
        self.automatic_optimization = not manual

    def training_step(self, batch, batch_idx):
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        if not self.automatic_optimization:
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return loss


class GradientOfTheLoss(Callback):
    """Keeps the gradients before each step, at its turn, which is the first."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append({name: p.grad.clone() for name, p in pl_module.named_parameters()})


class Growth(Callback):
    """Keeps the gradients by which a scheduler grows."""

    def __init__(self, scheduler):
        self.scheduler, self.used = scheduler, []

    def on_train_start(self, trainer, pl_module):
        group = self.scheduler.groups[0]
        update = group._update

        def watched():
            self.used.append({name: gradient.clone() for name, gradient in group._gradients.items()})
            return update()

        group._update = watched


@pytest.mark.parametrize("penalty", [lambda: L2Init(5.0), lambda: Parseval(0.5)], ids=["l2_init", "parseval"])
@pytest.mark.parametrize("manual", [False, True])
def test_growth_follows_the_gradient_of_the_loss_whatever_penalty_comes_first(penalty, manual):
    masks = []
    for order in ("penalty first", "penalty last", "between two penalties"):
        torch.manual_seed(0)
        scheduler = PruneRegrowScheduler("rigl", 0.7, every=3, prune_rate=0.5, regrow_end=1.0, summary=False)
        listed = [scheduler, penalty()] if order == "penalty last" else [penalty(), scheduler]
        if order == "between two penalties":
            listed.append(Parseval(0.1) if isinstance(listed[0], L2Init) else L2Init(1.0))
        true, growth = GradientOfTheLoss(), Growth(scheduler)
        trainer([true, *listed, growth], max_epochs=2).fit(Manual(manual), images(48))
        assert len(growth.used) >= 2
        for i, used in enumerate(growth.used):  # after steps 3, 6, ...
            assert len(used) == 3
            assert all(torch.equal(gradient, true.seen[3 * i + 2][name]) for name, gradient in used.items()), order
        masks.append(scheduler.masks)
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


@pytest.mark.parametrize("average", [lambda: EMAWeightAveraging(decay=0.5), lambda: StochasticWeightAveraging(0.01, 1)])
@pytest.mark.parametrize(
    "change", [lambda: PlasticityInjection(["net.6"], at=1000), lambda: ModuleTransform("layer_norm", ["net.4"])]
)
def test_averages_of_the_weights_may_stand_before_what_changes_the_module(average, change):
    ends = []
    for first in (True, False):
        torch.manual_seed(0)
        module = Classifier()
        callbacks = [average(), change()] if first else [change(), average()]
        trainer(callbacks, max_epochs=3).fit(module, images(32))
        ends.append(dict(module.named_parameters()))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
