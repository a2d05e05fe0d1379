"""The monitor knows no measure by name: whoever replaces a definition changes its log, and a stranger's measure is one entry."""

import ast
import inspect
import pathlib
import pickle
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

import plasticity_lightning.callbacks.monitoring as monitoring
from plasticity_lightning.callbacks import PlasticityMonitor
from plasticity_lightning.measures import MEASURES, Measure, activity, gradients, rank, weights
from plasticity_lightning.measures.aggregate import tag
from plasticity_lightning.measures.registry import Memory, chosen_measures

from .test_plasticity_monitor import Stranger, loader, mlp, trainer


def logged(*measures, net=None, **settings):
    """Values published at the last batch of one epoch, by tag."""
    monitor = PlasticityMonitor(measures=list(measures), every=1, **settings)
    run = trainer(monitor)
    torch.manual_seed(0)
    run.fit(Stranger(net or mlp()), loader())
    return {key: float(value) for key, value in run.callback_metrics.items()}


@pytest.mark.parametrize(
    ("module", "name"),
    [(activity, "fau"), (activity, "dormant"), (rank, "srank"), (weights, "weight_norm"), (gradients, "grad_norm")],
)
def test_the_log_follows_the_definition(module, name, monkeypatch):
    before = logged(name)
    monkeypatch.setattr(module, name, lambda given, **options: torch.tensor(0.125))
    after = logged(name)
    assert before.keys() == after.keys()
    assert 0.125 not in before.values()
    # two layers' norms together, and shares or ranks of 1/8 each
    matrices = {"weight_norm": 3, "grad_norm": 3}.get(name)
    expected = 0.125 if matrices is None else pytest.approx(0.125 * matrices**0.5)
    assert after[tag(name, "network")] == expected


def test_an_active_entry_is_defined_once(monkeypatch):
    monkeypatch.setattr(activity, "active_entries", lambda a: a.detach() > -1.0)
    found = logged("fau", "ever_active")
    assert found[tag("fau", "network")] == found[tag("ever_active", "network")] == 1.0


def test_no_measure_is_named_in_the_monitors_code():
    class Names(ast.NodeVisitor):
        found: list[str] = []  # noqa: RUF012

        def visit_Compare(self, node):
            constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            self.found += [c for c in constants if isinstance(c, str) and c in MEASURES]

    for path in pathlib.Path(inspect.getfile(monitoring)).parent.glob("*.py"):
        Names().visit(ast.parse(path.read_text()))
    assert Names.found == []


def largest(activation):
    """Largest activation of the layer."""
    return activation.max()


as_an_entry = Measure(largest, better="lower", cost="cheap", combine="max", name="largest_of_all")


def test_a_function_a_measure_and_an_import_path():
    found = logged("fau", largest, as_an_entry, net=(net := mlp()), groups={"body": "net.*"})
    assert tag("fau", "body") in found
    assert (
        found[tag("largest", "body")] <= found[tag("largest_of_all", "body")]
    )  # the mean over layers, and the largest
    assert as_an_entry.description == "Largest activation of the layer"
    again = logged(f"{__name__}.largest", f"{__name__}.as_an_entry", net=mlp(), groups={"body": "net.*"})
    assert {key: value for key, value in found.items() if "largest" in key} == again
    assert len(list(net)) == 6


def row_sums(weight, state):
    """Change of the sum of a matrix since the last measurement."""
    total = weight.sum()
    return (total - state if state is not None else None), total


class Keeps(nn.Module):
    """A stranger's spiking node."""

    def forward(self, x):
        return (x > 0).float() + 0.0 * x


def test_a_measure_of_every_kind():
    of = {
        "saw": Measure(lambda z, f: f(z).mean(), "preactivations", name="saw", on="elementwise"),
        "rate": Measure(lambda s: s.double().mean(), "spikes", name="rate", share=True),
        "most": Measure(lambda c: c.max(), "spikes", name="most", given="counts"),
        "size": Measure(lambda w: torch.tensor(float(w.numel())), "weights", name="size", combine="units"),
        "moved": Measure(lambda w, w0: (w - w0.to(w)).abs().max(), "weights", name="moved", given="initial"),
        "step": Measure(lambda a, b: (b - a).abs().max(), "weights", name="step", given="steps"),
        "row": Measure(row_sums, "weights", name="row", memory=Memory()),
        "grads": Measure(lambda g: torch.tensor(float(len(g))), "gradients", name="grads"),
        "loss_at": Measure(lambda n, x, targets, loss: loss(n(x), targets), "probe", name="loss_at",
                           options=("targets", "loss")),
        "two": Measure(lambda w: {"two_low": w.min(), "two_high": w.max()}, "weights", name="two"),
    }  # fmt: skip
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), Keeps(), nn.Linear(6, 3))
    found = logged(*of.values(), net=net, activations=["net.1", "net.3"], network="net", strict=False)
    names = {key.split("/")[1] for key in found if key.startswith("plasticity/")}
    # the ReLU is no spiking node; `saw` needs a function that is known
    assert names == (set(of) - {"two"}) | {"two_low", "two_high"}
    spikes = found[tag("rate", "network")]
    assert 0 < spikes < 1
    assert found[tag("most", "network")] == 1
    sizes = [32, 48, 18]  # matrices, weighted by their own size
    assert found[tag("size", "network")] == pytest.approx(sum(s * s for s in sizes) / sum(sizes))
    assert found[tag("grads", "network")] == 2


@pytest.mark.parametrize(
    ("measures", "words"),
    [
        (["fau", "fua"], "did you mean 'fau'"),
        (["nowhere.mine"], "neither in the list nor an import path"),
        ([f"{__name__}.missing"], "missing"),
        ([f"{__name__}.loader_of_nothing"], "loader_of_nothing"),
        ([lambda a: a.mean()], "must be an identifier"),
        ([3], "must be a name, a Measure or a function"),
        ([Stranger], "must be a name, a Measure or a function"),
        ([largest, Measure(largest, cost="cheap")], "two different ones are named 'largest'"),
        ([Measure(largest, name="fau")], "two different ones are named 'fau'"),
    ],
)
def test_what_is_no_measure_is_refused(measures, words):
    with pytest.raises(ValueError, match=words):
        PlasticityMonitor(measures=measures)


def test_a_function_made_elsewhere_is_not_taken_for_one_of_the_same_name():
    def largest(activation):
        return torch.tensor(0.125)

    assert logged(largest)[tag("largest", "network")] == 0.125


def test_a_monitor_can_be_sent_to_another_process():
    measures = [name for name, measure in MEASURES.items() if not measure.elsewhere]
    monitor = pickle.loads(pickle.dumps(PlasticityMonitor([*measures, largest])))
    assert monitor.measures == (*measures, "largest")
    assert all(monitor.entries[name] == MEASURES[name] for name in measures)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"needs": "activation"}, "did you mean 'activations'"),
        ({"cost": "free"}, "cost='free' must be one of"),
        ({"combine": "sum"}, "combine='sum' must be one of"),
        ({"on": "relu"}, "on='relu' must be one of"),
        ({"given": "counts"}, r"given='counts' must be one of \['itself'\]"),
        ({"reduce": "sum"}, "reduce='sum' must be one of"),
        ({"options": ("gamma",)}, r"options=\['gamma'\] must be among \['tau', 'function'\]"),
        ({"needs": "weights", "options": ("tau",)}, "must be among"),
    ],
)
def test_an_impossible_entry_is_refused_at_once(arguments, words):
    with pytest.raises(ValueError, match=words):
        Measure(largest, **arguments)


def test_a_changed_entry_is_used(monkeypatch):
    entry = replace(MEASURES["fau"], function=lambda a: torch.tensor(1.0), on="any")
    monkeypatch.setitem(MEASURES, "fau", entry)
    assert chosen_measures(["fau"])["fau"] is entry
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
    assert logged("fau", net=net)[tag("fau", "network")] == 1.0


def test_of_activations_a_measure_gives_one_scalar():
    with pytest.raises(MisconfigurationException, match=r"'two' gives \['high', 'low'\]"):
        logged(Measure(lambda a: {"low": a.min(), "high": a.max()}, name="two"))


def test_a_measure_applies_where_its_entry_says():
    with pytest.raises(MisconfigurationException, match=r"`tall` needs a bounded one"):
        logged(Measure(largest, name="tall", on="bounded"))
