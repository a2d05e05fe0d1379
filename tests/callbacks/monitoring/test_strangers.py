"""Networks of other makes: graph convolutions, experts, recurrent layers, spiking nodes; a second fit; the table of coverage."""

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F

from plasticity_lightning.callbacks import PlasticityMonitor
from plasticity_lightning.protocols import HasCoverage

from .test_plasticity_monitor import Stranger, Trace, loader, mlp, trainer


class OwnLinear(nn.Module):
    """A linear layer that is none of torch's, as torch_geometric has one."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / n_in**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class GraphConv(nn.Module):
    """Mixes its inputs after an own linear layer, and adds a bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin, self.bias = OwnLinear(n_in, n_out), nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.lin(x)
        return mixed + mixed.roll(1, 0) + self.bias


class Expert(nn.Module):
    """Two raw matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(4, 10) / 2), nn.Parameter(torch.randn(10, 4) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x @ self.up) @ self.down


class Mixture(Stranger):
    """A router, experts of raw matrices, graph convolutions with functional activations, at the module itself."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(6, 3))
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList([Expert(), Expert()])
        self.conv1, self.conv2 = GraphConv(4, 8), GraphConv(8, 6)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        share = self.gate(batch[0]).softmax(1)
        x = sum(share[:, i : i + 1] * expert(batch[0]) for i, expert in enumerate(self.experts))
        x = F.relu(self.conv1(x))
        x = self.conv2(x).relu()
        return F.cross_entropy(self.net(x), batch[1])


def run(module, *callbacks, **settings):
    fitted = trainer(*callbacks, **settings)
    fitted.fit(module, loader())
    return fitted


def test_activations_land_in_the_group_of_the_layer_that_makes_them():
    monitor = PlasticityMonitor(["fau"], every=1, per_layer=True)
    run(Mixture(), monitor)
    layers = {key.removeprefix("plasticity/fau/") for key in monitor.latest if key.count("/") == 3}
    assert layers == {
        "experts/experts.0.relu",
        "experts/experts.1.relu",
        "conv1/conv1.lin.relu",
        "conv2/conv2.lin.relu",
    }


def test_every_matrix_of_a_module_is_measured():
    class Recurrent(Stranger):
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(nn.Linear(5, 3))
            self.lstm = nn.LSTM(4, 5, num_layers=2)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(self.lstm(batch[0].unsqueeze(0))[0][0]), batch[1])

    module = Recurrent()
    matrices = [p.detach().clone() for p in module.lstm.parameters() if p.ndim > 1]
    monitor = PlasticityMonitor(["weight_norm", "spectral_norm", "update_ratio"], per_layer=True)
    run(module, monitor, max_steps=1)
    by_hand = float(torch.cat([m.flatten() for m in matrices]).norm())
    assert len(matrices) == 4
    assert float(monitor.latest["plasticity/weight_norm/lstm"]) == pytest.approx(by_hand)
    names = {f"lstm.weight_{kind}_l{i}" for kind in ("ih", "hh") for i in range(2)}
    for measure in monitor.measures:
        assert {key.rpartition("/")[2] for key in monitor.latest if f"{measure}/lstm/" in key} == names


def test_functions_that_are_no_relu_are_seen():
    class Functional(Stranger):
        def training_step(self, batch, batch_idx):
            first, second, last = self.net
            x = F.hardtanh(first(batch[0]))
            x = F.threshold(input=second(x), threshold=0.1, value=0.0)
            return F.cross_entropy(last(torch.tanh(x)), batch[1])  # tanh as a function is taken for a gate

    monitor = PlasticityMonitor(["dormant", "fau", "saturated"], every=1)
    run(Functional(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3))), monitor)
    assert {name: layer.kind.name for name, layer in monitor._collector.layers.items()} == {
        "net.0.hardtanh": "hardtanh",
        "net.1.threshold": "threshold",
    }


class Leaky(nn.Module):
    """A spiking node of no known package: (spikes, membrane potential), as snnTorch's."""

    step_mode = "s"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x > 0.2).float(), x


class Spiking(Stranger):
    def __init__(self, node: nn.Module) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(8, 3))
        self.first, self.node, self.counted = nn.Linear(4, 8), node, []

    def training_step(self, batch, batch_idx):
        total = 0
        for _ in range(5):
            current = self.first(batch[0] + torch.randn_like(batch[0]))
            spikes, potential = self.node(current)
            self.counted.append(spikes)
            total = total + self.net(spikes + potential)
        return F.cross_entropy(total, batch[1])


def test_spikes_of_nodes_named_as_activations():
    module = Spiking(Leaky())
    monitor = PlasticityMonitor(["firing_rate", "silent", "isi_cv", "fau"], every=1, activations="node")
    run(module, monitor, max_steps=1)
    spikes = torch.stack(module.counted)  # [T, B, N]
    assert float(monitor.latest["plasticity/firing_rate/node"]) == pytest.approx(float(spikes.mean()) * 1000)
    assert float(monitor.latest["plasticity/fau/node"]) == pytest.approx(float(spikes.mean()))
    silent = float((spikes.sum((0, 1)) == 0).double().mean())
    assert float(monitor.latest["plasticity/silent/node"]) == pytest.approx(silent)


def test_modules_named_as_activations_that_do_not_spike_are_refused_for_spikes():
    class Rates(Leaky):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.sigmoid(), x

    with pytest.raises(MisconfigurationException, match=r"need spikes, 0 or 1; the outputs of \['node'\]"):
        run(Spiking(Rates()), PlasticityMonitor(["firing_rate"], activations="node"))
    lenient = PlasticityMonitor(["firing_rate", "dormant"], activations="node", strict=False)
    run(Spiking(Rates()), lenient)
    assert {key.split("/")[1] for key in lenient.latest} == {"dormant"}


def test_a_monitor_that_serves_a_second_fit_logs_as_in_the_first():
    measures = ["fau", "distance_from_init", "spectral_norm", "grad_direction", "probe_loss"]
    monitor = PlasticityMonitor(measures, every=dict.fromkeys(measures, 2) | {"probe_loss": 5}, probe_steps=2)
    traces = []
    for _ in range(2):
        trace = Trace()
        torch.manual_seed(3)  # dropout
        run(Stranger(mlp()), monitor, trace)
        traces.append(trace.seen)
    assert any("plasticity/fau/network" in seen for seen in traces[0])
    assert {"plasticity/distance_from_init/network", "plasticity/probe_loss/network"} <= set(traces[0][-1])
    assert traces[0] == traces[1]
    # and another network, of other layers
    other = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    run(Stranger(other), monitor)
    assert set(monitor._collector.layers) == {"net.1"}
    assert len(monitor.state_dict()["history"]["steps"]) == 4  # batches 1, 2, 4, 6


def test_a_second_fit_of_the_same_trainer_goes_on():
    monitor = PlasticityMonitor(["fau", "distance_from_init"], every=4)
    module = Stranger(mlp(), lr=0.5)
    first = run(module, monitor)  # 6 batches
    moved = float(monitor.latest["plasticity/distance_from_init/network"])
    first.fit_loop.max_epochs = 2
    first.fit(module, loader())
    assert monitor.state_dict()["history"]["steps"] == [1, 4, 8, 12]
    assert float(monitor.latest["plasticity/distance_from_init/network"]) > moved > 0


def test_the_table_of_coverage_tells_what_is_watched_and_what_not():
    class Partly(Stranger):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)))
            self.unused = nn.ReLU()
            self.frozen_by_omission = nn.Linear(3, 3)

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1)

    monitor = PlasticityMonitor(["fau", "weight_norm", "grad_norm", "sharpness"], network="net")
    module = Partly()
    fitted = run(module, monitor)
    assert isinstance(monitor, HasCoverage)
    rows = [(row.name, row.what, row.reason) for row in monitor.coverage(fitted, module)]
    assert rows[:3] == [
        ("net.1", "watched", "relu: fau"),
        ("net.3", "left out", "gelu: none of the measures means something"),
        ("unused", "left out", "relu: it has not run in a training step so far"),
    ]
    assert ("net.0", "matrix", "weight_norm") in rows
    assert ("net.4", "gradients", "grad_norm") in rows
    assert ("frozen_by_omission", "left out", "no optimiser holds its parameters") in rows
    assert rows[-1] == ("net", "probed", "sharpness")
