"""The monitor on strangers' modules: right values, no change to training, exact resume, nothing left behind."""

import copy
import re

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from plasticity_lightning.callbacks import PlasticityMonitor
from plasticity_lightning.callbacks.monitoring.plasticity_monitor import DEFAULT_MEASURES
from plasticity_lightning.measures import MEASURES
from plasticity_lightning.measures.activity import unit_sums
from plasticity_lightning.runtime import ResumableDataLoader


class Stranger(pl.LightningModule):
    """A module that knows nothing of the monitor."""

    def __init__(self, net: nn.Module, lr: float = 0.05, optimizer: type = torch.optim.SGD) -> None:
        super().__init__()
        self.net, self.lr, self.kind = net, lr, optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        out = self.net(batch[0])
        return functional.cross_entropy(out.mean(1) if out.ndim == 3 else out, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.kind(self.parameters(), lr=self.lr)


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def loader(shape: tuple[int, ...] = (4,), n: int = 24, batch_size: int = 4, classes: int = 3) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, *shape, generator=generator), torch.randint(0, classes, (n,), generator=generator)
    return ResumableDataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True, seed=2)


def trainer(*callbacks: pl.Callback, **settings: object) -> pl.Trainer:
    return pl.Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": list(callbacks),
            **settings,
        }
    )


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


class Trace(pl.Callback):
    """What a controller listed after the monitor reads at the end of each batch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def test_fau_of_a_tiny_net_is_that_computed_by_hand():
    # x = (1, -2): hidden = relu([1, -2, -1]) has 1 of 3 active; x = (3, 1): relu([3, 1, 4]) has 3 of 3; together 4 / 6
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    data = DataLoader(TensorDataset(torch.tensor([[1.0, -2.0], [3.0, 1.0]]), torch.tensor([0, 1])), batch_size=2)
    monitor, trace = PlasticityMonitor(per_layer=True), Trace()
    trainer(monitor, trace).fit(Stranger(net), data)
    seen = trace.seen[0]
    assert seen["plasticity/fau/net"] == pytest.approx(4 / 6)
    assert seen["plasticity/fau/net/net.1"] == pytest.approx(4 / 6)
    assert seen["plasticity/fau/network"] == pytest.approx(4 / 6)
    assert seen["plasticity/ever_active/network"] == 1.0
    # weights are those of the forward pass, before the step: |W| = sqrt(1 + 1 + 2) in the first layer
    assert seen["plasticity/weight_norm/net/net.0"] == pytest.approx(2.0)
    assert hooks(net) == 0


@pytest.mark.parametrize("name", ["resnet18", "transformer"])
def test_ten_lines_on_a_strangers_network(name):
    torch.manual_seed(0)
    if name == "resnet18":
        net = pytest.importorskip("torchvision").models.resnet18(num_classes=3)
        data = loader((3, 32, 32), n=8)
    else:
        net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        data = loader((5, 16), n=8, classes=16)
    monitor = PlasticityMonitor(every=1, per_layer=True)
    run = trainer(monitor)
    run.fit(Stranger(net), data)
    values = {key: float(value) for key, value in run.callback_metrics.items()}
    assert {f"plasticity/{m}/network" for m in DEFAULT_MEASURES} <= set(values)
    fau = {k.rpartition("/")[2]: v for k, v in values.items() if k.startswith("plasticity/fau/net/")}
    assert all(0.2 < v < 1 for v in fau.values())
    if name == "resnet18":
        # 17 ReLUs run, 2 in each of 8 blocks by one shared module, and the stem's
        assert len(fau) == 17
        assert {"net.layer2.0.relu", "net.layer2.0.relu.downsample.1"} <= set(fau)
        assert monitor._collector.layers["net.layer2.0.relu"].n_units == 128
    else:
        # F.relu inside the layer, units last: [B, L, 32]
        assert set(fau) == {"net.layers.0.linear1.relu", "net.layers.1.linear1.relu"}
        assert {layer.n_units for layer in monitor._collector.layers.values()} == {32}
    assert hooks(net) == 0
    assert torch.overrides._len_torch_function_stack() == 0


ALL = [m for m in MEASURES if MEASURES[m].needs != "spikes" and m not in ("saturated", "hessian_rank")]


@pytest.mark.parametrize("on", ["batch", "probe"])
def test_training_is_bitwise_the_same_with_the_monitor(on):
    results = []
    for callbacks in ([], [PlasticityMonitor(measures=ALL, every=2, on=on, probe_size=4, probe_steps=2)]):
        net = mlp()
        pl.seed_everything(3)
        run = trainer(*callbacks, max_epochs=2)
        run.fit(Stranger(net, optimizer=torch.optim.Adam), loader())
        results.append((net.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(results[0][0][k], results[1][0][k]) for k in results[0][0])
    assert torch.equal(results[0][1], results[1][1])
    assert {f"plasticity/{m}/network" for m in ALL} <= set(run.callback_metrics)


def test_probed_activities_are_those_of_the_first_batch_in_eval_mode():
    net, monitor = mlp(), PlasticityMonitor(measures=["fau"], every=1, on="probe")
    run = trainer(monitor)
    run.fit(Stranger(net, lr=0.0), loader())
    x = monitor._probe.args[0]
    net.eval()
    hidden = net[:2](x), net[:5](x)
    expected = sum((h > 0).sum() for h in hidden) / sum(h.numel() for h in hidden)
    assert float(run.callback_metrics["plasticity/fau/network"]) == pytest.approx(float(expected))


class SaveAt(pl.Callback):
    """Saves in the middle of an epoch, as a Checkpoint callback does."""

    def __init__(self, batch: int, path: str) -> None:
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            trainer.save_checkpoint(self.path)


def flat(memory) -> list[Tensor]:
    return [memory] if isinstance(memory, Tensor) else [t for part in memory for t in flat(part)]


def test_resume_is_exact(tmp_path):
    def run(*more: pl.Callback, ckpt: str | None = None):
        measures = [m for m in ALL if m != "ntk_rank"]
        monitor = PlasticityMonitor(
            measures, every=dict.fromkeys(measures, 2) | {"grad_direction": 3}, on="probe", probe_size=4, probe_steps=2
        )
        trace, model = Trace(), Stranger(mlp(), optimizer=torch.optim.Adam)
        model.net[2].p = 0.0  # else the random states would have to be restored, which is the task of RNGState
        pl.seed_everything(5)
        trainer(monitor, trace, *more, max_steps=9, max_epochs=-1).fit(
            model, loader(), ckpt_path=ckpt, weights_only=None if ckpt is None else True
        )
        return monitor, trace

    # after batch 3 the direction is between the two gradients of a pair
    monitor, trace = run(SaveAt(3, str(tmp_path / "cut.ckpt")))
    after, rest = run(ckpt=str(tmp_path / "cut.ckpt"))

    assert len(rest.seen) == 6
    for whole, part in zip(trace.seen[3:], rest.seen, strict=True):
        assert {k: v for k, v in part.items() if v != whole[k]} == {}
    assert set(rest.seen[-1]) == set(trace.seen[-1])
    one, two = monitor.state_dict(), after.state_dict()
    assert one["latest"].keys() == two["latest"].keys()
    assert one["history"]["steps"] == two["history"]["steps"]
    assert one["initial"].keys() == two["initial"].keys() != set()
    assert all(torch.equal(one["initial"][name], two["initial"][name]) for name in one["initial"])
    kept, again = one["memories"], two["memories"]
    assert kept.keys() == again.keys() == {"spectral_norm", "grad_direction"}
    for measure, layers in kept.items():
        assert layers.keys() == again[measure].keys() != set()
        for name, (memory, _) in layers.items():
            for a, b in zip(flat(memory), flat(again[measure][name][0]), strict=True):
                assert torch.equal(a, b), (measure, name)
    torch.testing.assert_close(one["history"]["values"], two["history"]["values"], rtol=0, atol=0, equal_nan=True)


class ActorCritic(pl.LightningModule):
    """Manual optimisation, two optimisers, two updates a batch, a target network without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.actor, self.critic = mlp(1), mlp(2)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.norms: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        actor, critic = self.optimizers()
        for _ in range(2):
            with torch.no_grad():
                target = self.target(batch[0])
            critic.zero_grad()
            self.manual_backward((self.critic(batch[0]) - target - 1).square().mean())
            self.norms.append(float(torch.cat([p.grad.flatten() for p in self.critic.parameters()]).norm()))
            critic.step()
        actor.zero_grad()
        self.manual_backward(self.actor(batch[0]).square().mean())
        actor.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.actor.parameters(), 0.1), torch.optim.SGD(self.critic.parameters(), 0.1)]


def test_manual_optimisation_with_two_optimisers():
    model = ActorCritic()
    monitor = PlasticityMonitor(
        groups={"critic": "critic.*", "actor": ["actor.*"]}, measures=["fau", "grad_norm", "update_ratio"], every=1
    )
    run = trainer(monitor)
    run.fit(model, loader(n=4))
    # the mean over the two updates of the batch of the norm of all the critic's gradients, layer by layer
    layers = [monitor.latest[f"plasticity/grad_norm/{g}"] for g in ("critic", "actor")]
    assert float(layers[0]) == pytest.approx(sum(model.norms) / 2, rel=0.02)
    assert {"plasticity/update_ratio/actor", "plasticity/update_ratio/critic"} <= set(run.callback_metrics)
    # the target runs without gradient and is not counted
    assert not [name for name in monitor._collector.layers if name.startswith("target")]


def test_gradients_are_measured_once_per_step_after_accumulation():
    class Norms(pl.Callback):
        seen: list[float] = []  # noqa: RUF012

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.seen.append(float(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm()))

    norms, trace = Norms(), Trace()
    monitor = PlasticityMonitor(measures=["grad_norm"], every=2)
    trainer(norms, monitor, trace, accumulate_grad_batches=3).fit(Stranger(mlp()), loader())
    tag = "plasticity/grad_norm/network"
    # batches 1 and 2 make it due, but only batches 3 and 6 end with a step
    assert [tag in seen for seen in trace.seen] == [False, False, True, True, True, True]
    assert trace.seen[2][tag] == pytest.approx(norms.seen[0])
    assert trace.seen[4][tag] == pytest.approx(norms.seen[0])
    assert trace.seen[5][tag] == pytest.approx(norms.seen[1])


class Shared(nn.Module):
    """One ReLU after layers of different widths, in a network that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(4, 8), nn.Linear(8, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(x))))


def test_a_shared_nonlinearity_is_several_layers_and_a_shared_network_accumulates():
    class Twice(Stranger):
        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self.net(batch[0]) + self.net(-batch[0]), batch[1])

    monitor = PlasticityMonitor(measures=["fau", "ever_active", "zero_grad_units"])
    run = trainer(monitor)
    run.fit(Twice(Shared()), loader(n=4))
    assert {name: layer.n_units for name, layer in monitor._collector.layers.items()} == {
        "net.act": 8,
        "net.act.second": 3,
    }
    assert int(monitor._collector.layers["net.act"].metrics[(unit_sums, None)].gathered().samples) == 8
    # of each pair x, -x at least one side of a unit with a small bias is active
    assert float(run.callback_metrics["plasticity/ever_active/network"]) > 0.5


@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_compiled_modules(how):
    net = mlp()
    net[2].p = 0.0
    reference, compiled = copy.deepcopy(net), net
    if how == "wrapped":
        compiled = torch.compile(net, backend="eager")
    else:
        net.compile(backend="eager")
    traces = []
    for module in (reference, compiled):
        trace = Trace()
        trainer(PlasticityMonitor(every=2, per_layer=True), trace).fit(Stranger(module), loader())
        traces.append(trace.seen)
    assert traces[0] == traces[1]
    assert "plasticity/fau/net/net.1" in traces[1][0]


def test_bfloat16():
    run = trainer(PlasticityMonitor(every=1), precision="bf16-mixed")
    run.fit(Stranger(mlp()), loader())
    assert all(bool(v.isfinite()) for k, v in run.callback_metrics.items() if k.startswith("plasticity/"))


def test_spiking_nodes_are_found_without_importing_spikingjelly():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import functional as snn

    class Spiking(Stranger):
        def training_step(self, batch, batch_idx):
            snn.reset_net(self.net)
            out = sum(self.net(batch[0] * 3) for _ in range(5))
            return functional.cross_entropy(out, batch[1])

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), neuron.LIFNode(v_threshold=0.5), nn.Linear(8, 3))
    counted = []
    net[1].register_forward_hook(lambda m, a, o: counted.append(o.detach()))
    run = trainer(PlasticityMonitor(measures=["silent", "firing_rate", "fau", "isi_cv"]))
    run.fit(Spiking(net), loader(n=4))
    spikes = torch.stack(counted)  # [T, B, N]
    values = {k: float(v) for k, v in run.callback_metrics.items()}
    assert values["plasticity/silent/network"] == pytest.approx(float((spikes.sum((0, 1)) == 0).double().mean()))
    assert values["plasticity/firing_rate/network"] == pytest.approx(float(spikes.mean()) * 1000)
    assert values["plasticity/fau/network"] == pytest.approx(float(spikes.mean()))


def test_groups_of_the_protocol():
    class Offers(Stranger):
        def plasticity_groups(self):
            return {"trunk": [self.net[0], self.net[1]], "head": self.net[5]}

    run = trainer(PlasticityMonitor(measures=["fau", "weight_norm"]))
    run.fit(Offers(mlp()), loader(n=4))
    assert set(run.callback_metrics) == {
        "plasticity/fau/trunk",
        "plasticity/fau/network",
        "plasticity/weight_norm/trunk",
        "plasticity/weight_norm/head",
        "plasticity/weight_norm/network",
    }


def test_without_nonlinearities_the_outputs_of_layers_are_measured_with_a_note(caplog):
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    monitor = PlasticityMonitor(every=1)
    run = trainer(monitor)
    with caplog.at_level("INFO"):
        run.fit(Stranger(net), loader())
    assert "sees no nonlinearity" in caplog.text
    assert "plasticity/dormant/network" in run.callback_metrics
    assert "plasticity/fau/network" not in run.callback_metrics
    assert list(monitor._collector.layers) == ["net.0", "net.1", "net.2"]


def test_an_exception_leaves_no_hook_behind():
    class Fails(Stranger):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            raise RuntimeError("diverged")

    model = Fails(mlp())
    with pytest.raises(RuntimeError, match="diverged"):
        trainer(PlasticityMonitor(measures=["fau", "update_ratio"])).fit(model, loader())
    assert hooks(model) == 0
    assert torch.overrides._len_torch_function_stack() == 0
    assert not model.optimizers(use_pl_optimizer=False)._optimizer_step_pre_hooks


def test_tensorboard_gets_a_layout_histograms_and_the_heat_map(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    logger = TensorBoardLogger(tmp_path, name="")
    monitor = PlasticityMonitor(every=2, figure_every=4)
    trainer(monitor, logger=logger, log_every_n_steps=1).fit(Stranger(mlp()), loader())
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = events.Tags()
    assert "plasticity/fau/network" in tags["scalars"]
    assert {"plasticity/unit_activity/net", "plasticity/unit_activity/network"} <= set(tags["histograms"])
    assert "plasticity/fau/layers" in tags["images"]
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert {"shares of network", "shares of net", "weight_norm"} <= set(charts)
    # every scalar of a group is in one chart: shares by group, the others by measure
    for tag in tags["scalars"]:
        if re.fullmatch(r"plasticity/[^/]+/(net|network)", tag):
            assert sum(bool(re.search(pattern, tag)) for found in charts.values() for pattern in found) == 1, tag


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"measures": ["fua"]}, "'fau'"),
        ({"measures": []}, "at least one"),
        ({"measures": "fau"}, "list"),
        ({"measures": ["branching_factor"]}, "LiquidMonitor"),
        ({"every": 0}, "at least 1"),
        ({"every": {"sharpness": 5}}, "sharpness"),
        ({"on": "epoch"}, "'batch' or 'probe'"),
        ({"loss": "nll"}, "cross_entropy"),
        ({"probe_size": 0}, "probe_size=0"),
        ({"unit_dim": 0}, "batch"),
        ({"heatmap": "srank", "measures": ["fau"]}, "heatmap='srank'"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(arguments, words):
    with pytest.raises(ValueError, match=words):
        PlasticityMonitor(**arguments)


@pytest.mark.parametrize(
    ("arguments", "net", "words"),
    [
        ({"groups": {"critic": "critics.*"}}, nn.ReLU(), "matches no layer"),
        ({"activations": "net.x"}, nn.ReLU(), "matches no layer"),
        ({"network": "nett"}, nn.ReLU(), "no submodule"),
        ({"measures": ["fau"]}, nn.GELU(), "use `dormant`"),
        ({"measures": ["saturated"]}, nn.ReLU(), "bounded"),
    ],
)
def test_what_does_not_fit_the_module_is_refused(arguments, net, words):
    with pytest.raises(MisconfigurationException, match=words):
        trainer(PlasticityMonitor(**arguments)).fit(
            Stranger(nn.Sequential(nn.Linear(4, 8), net, nn.Linear(8, 3))), loader()
        )


def test_several_networks_must_be_named_to_be_probed():
    with pytest.raises(MisconfigurationException, match="network="):
        trainer(PlasticityMonitor(on="probe")).fit(ActorCritic(), loader())
    run = trainer(PlasticityMonitor(on="probe", network="critic"))
    run.fit(ActorCritic(), loader())
    assert "plasticity/fau/critic" in run.callback_metrics
    assert "plasticity/fau/actor" not in run.callback_metrics


class Caller(Stranger):
    """Its training step calls the module itself, whose forward pass logs."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        self.log("forward/mean", out.mean())
        return out

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize("on", ["batch", "probe"])
def test_a_module_that_calls_itself_is_probed_as_a_whole(on):
    measures = ["fau", "probe_loss", "sharpness", "ntk_rank", "hessian_rank"]
    plain, module = Caller(mlp()), Caller(mlp())
    trace, plain_trace = Trace(), Trace()
    torch.manual_seed(3)  # dropout
    trainer(plain_trace).fit(plain, loader(n=8))
    watching = PlasticityMonitor(measures, on=on, probe_steps=2, probe_size=4)
    run = trainer(watching, trace)
    torch.manual_seed(3)
    run.fit(module, loader(n=8))
    assert {f"plasticity/{measure}/network" for measure in measures} <= watching.latest.keys()
    assert module.trainer is run
    # what the copies log is not logged
    mean = [[seen["forward/mean"] for seen in t.seen] for t in (trace, plain_trace)]
    assert mean[0] == mean[1]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, module.state_dict()[name])
