"""Units are followed from producer to consumer through what networks do to them, and given up where they mix."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plasticity_lightning.interventions.unit_graph import UnitTracer


def trace(root, run, x):
    graph, seen = {}, {}
    with UnitTracer(root, graph, lambda name, a: seen.setdefault(name, []).append(a)):
        run(x)
    return graph, seen


def test_a_convolutional_network_with_functional_code():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)
            self.fc1, self.fc2 = nn.Linear(5 * 4, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.norm(self.conv1(x)), inplace=True), 2)  # [B, 4, 5, 5]
            x = F.dropout(torch.tanh(self.conv2(x)), 0.5)[:, :]  # [B, 5, 3, 3]
            return x

        def head(self, x):
            return self.fc2(torch.flatten(F.gelu(self.fc1(x.flatten(1))), 1))

    net = Net()
    graph, seen = trace(net, net, torch.randn(2, 3, 12, 12))
    assert graph["conv1"].consumers == {"conv2": 1}
    assert graph["conv1"].norms == ["norm"]
    assert graph["conv1"].replaceable
    assert graph["conv2"].opaque == ""
    assert not graph["conv2"].replaceable  # nothing reads it yet
    assert seen["conv1"][0].shape == (2 * 10 * 10, 4)
    assert seen["conv1"][0].min() >= 0

    graph, seen = trace(net, lambda x: net.head(F.relu(net.conv2(x))), torch.randn(2, 4, 4, 4))
    assert graph["conv2"].consumers == {"fc1": 4}  # 2 x 2 positions of each channel
    assert graph["fc1"].consumers == {"fc2": 1}
    assert seen["conv2"][0].shape == (2 * 2 * 2, 5)
    assert not graph["fc2"].replaceable


def test_a_nonlinearity_after_the_flatten_sees_units_not_positions():
    conv, head = nn.Conv2d(1, 3, 3), nn.Linear(12, 1)
    net = nn.ModuleDict({"conv": conv, "head": head})
    x = torch.randn(2, 1, 4, 4)
    graph, seen = trace(net, lambda x: head(conv(x).flatten(1).relu()), x)
    assert graph["conv"].consumers == {"head": 4}
    expected = conv(x).relu().permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(seen["conv"][0], expected.detach())


def test_several_consumers_and_detached_ones():
    net = nn.ModuleDict({"encoder": nn.Linear(3, 4), "actor": nn.Linear(4, 1), "critic": nn.Linear(4, 1)})

    def step(x):
        h = net["encoder"](x).relu()
        return net["actor"](h.detach()).sum() + net["critic"](h).sum()

    graph, _ = trace(net, step, torch.randn(2, 3))
    assert graph["encoder"].consumers == {"actor": 1, "critic": 1}
    assert graph["encoder"].replaceable


def test_statistics_of_a_monitor_do_not_count_as_a_use_of_the_units():
    kept = []
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    net[1].register_forward_hook(lambda m, a, out: kept.append((out.detach().abs().mean(0) / 2, (out > 0).sum())))
    graph, _ = trace(net, net, torch.randn(2, 3))
    assert graph["0"].replaceable


def test_detached_units_that_reach_a_layer_mixed_are_left_alone():
    net = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(7, 1), "c": nn.Linear(4, 1)})

    def step(x):
        h = net["a"](x).relu()
        return net["b"](torch.cat([h.detach(), x], 1)) + net["c"](h)

    graph, _ = trace(net, step, torch.randn(2, 3))
    assert graph["a"].opaque == "its output goes into cat and on to a layer"


@pytest.mark.parametrize(
    ("mix", "reason"),
    [
        (lambda h, x: h + x, "add"),
        (lambda h, x: torch.cat([h, x], 1)[:, :4], "cat"),
        (lambda h, x: h.add_(x), "add_"),
        (lambda h, x: h.softmax(1), "softmax"),
        (lambda h, x: (h.T @ h)[:1], "matmul"),
    ],
)
def test_mixed_units_are_left_alone(mix, reason):
    net = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(4, 4)})
    x = torch.randn(2, 3)
    graph, _ = trace(net, lambda x: net["b"](mix(net["a"](x).relu(), torch.randn(2, 4))), x)
    assert reason in graph["a"].opaque
    assert not graph["a"].replaceable


def test_units_across_which_a_layer_reads_are_left_alone():
    net = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(5, 2), "c": nn.Linear(4, 2)})
    graph, _ = trace(net, lambda x: net["b"](net["a"](x).relu().transpose(1, 2)), torch.randn(2, 5, 3))
    assert graph["a"].opaque == "b reads across its units"
    graph, _ = trace(net, lambda x: net["c"](net["a"](x).relu().mean(1)), torch.randn(2, 5, 3))
    assert graph["a"].consumers == {"c": 1}
    graph, _ = trace(net, lambda x: net["c"](net["a"](x).relu().reshape(-1, 4).unsqueeze(0)), torch.randn(2, 5, 3))
    assert graph["a"].consumers == {"c": 1}


def test_splitting_units_into_heads_is_given_up():
    net = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(2, 2)})
    graph, _ = trace(net, lambda x: net["b"](net["a"](x).relu().view(2, 2, 2)), torch.randn(2, 3))
    assert graph["a"].opaque == "b reads across its units"


def test_grouped_and_shared_layers():
    net = nn.ModuleDict({"a": nn.Conv1d(3, 4, 1), "b": nn.Conv1d(4, 4, 1, groups=4), "c": nn.Conv1d(4, 4, 1)})
    graph, _ = trace(net, lambda x: net["b"](net["a"](x).relu()), torch.randn(2, 3, 5))
    assert graph["a"].opaque == "b is a grouped convolution"
    tied = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
    tied["b"].weight = tied["a"].weight
    graph, _ = trace(tied, lambda x: tied["c"](tied["a"](x).relu()), torch.randn(2, 4))
    assert graph["a"].opaque == "its weight is shared"
    # one module under two names is one layer, not two that share
    twice = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    twice["again"] = twice["a"]
    graph, _ = trace(twice, lambda x: twice["b"](twice["again"](x).relu()), torch.randn(2, 4))
    assert graph["a"].replaceable


def test_passes_without_gradient_are_not_looked_at():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        graph, seen = trace(net, net, torch.randn(2, 3))
    assert graph == {}
    assert seen == {}


def test_layer_norm_over_the_units_is_followed_and_over_positions_is_not():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 1))
    graph, _ = trace(net, net, torch.randn(2, 3))
    assert graph["0"].norms == ["1"]
    net = nn.Sequential(nn.Conv1d(3, 4, 1), nn.LayerNorm(5), nn.ReLU(), nn.Conv1d(4, 1, 1))
    graph, _ = trace(net, net, torch.randn(2, 3, 5))
    assert graph["0"].opaque == "1 does not keep its units apart"


def test_transposed_convolutions_have_their_units_in_the_second_dimension():
    net = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2))
    graph, seen = trace(net, net, torch.randn(2, 3, 3, 3))
    assert graph["0"].consumers == {"2": 1}
    assert seen["0"][0].shape[1] == 4
