"""Files of every format: equal outputs, without this package where that is promised, atomic, refused where they differ."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from plasticity_lightning.errors import UserError
from plasticity_lightning.sparsity.condensed import CondensedLinear
from plasticity_lightning.studies.export import METADATA, export_network, latencies, load_exported, samples_of
from tests.sparsity.test_compress import X, network, two_of_four

BATCHES = [(X,), (X[:3],)]  # the file takes other batch sizes than the one that it was recorded with


def exported(tmp_path, format, **arguments):
    net = two_of_four(network()) if format == "2:4" else network()
    return net.eval(), export_network(net, BATCHES, format, tmp_path / "net.pt", **arguments)


@pytest.mark.parametrize("format", ["csr", "condensed", "2:4", "dense"])
def test_a_file_computes_the_same_for_any_batch_size(format, tmp_path):
    net, done = exported(tmp_path, format)
    module = load_exported(tmp_path / "net.pt")
    with torch.no_grad():
        for n in (1, 5, 70):
            x = torch.randn(n, 4, 4, 4)
            torch.testing.assert_close(module(x), net(x), atol=1e-5, rtol=1e-5)
    assert done.difference <= 1e-5
    assert done.bytes_after == (tmp_path / "net.pt").stat().st_size
    extra = {METADATA: ""}
    torch.jit.load(tmp_path / "net.pt", _extra_files=extra)
    told = json.loads(extra[METADATA])
    assert (told["format"], len(told["layers"])) == (format, 3)


@pytest.mark.parametrize("format", ["csr", "2:4", "dense", "condensed"])
def test_only_condensed_needs_this_package(format, tmp_path):
    net, _ = exported(tmp_path, format)
    code = "import sys, torch; " + ("import plasticity_lightning.sparsity.condensed; " if format == "condensed" else "")
    code += f"x = torch.ones(1, 4, 4, 4); print(torch.jit.load({str(tmp_path / 'net.pt')!r})(x).sum().item()); "
    code += "print(any(m.startswith(('lightning', 'plasticity_lightning.callbacks')) for m in sys.modules), "
    code += "'plasticity_lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    total, loaded = done.stdout.splitlines()
    assert float(total) == pytest.approx(float(net(torch.ones(1, 4, 4, 4)).sum()), abs=1e-4)
    assert loaded == f"False {format == 'condensed'}"


def test_zeros_make_a_smaller_file(tmp_path):
    big = nn.Linear(400, 400)
    with torch.no_grad():
        big.weight.mul_(torch.rand(400, 400) < 0.1)
    for format in ("csr", "condensed"):
        done = export_network(big, [(torch.randn(2, 400),)], format, tmp_path / format)
        assert done.bytes_after < 0.35 * done.bytes_before


def test_a_projection_is_compared_with_the_projected_network(tmp_path):
    net = network(0.4)
    done = export_network(net, BATCHES, "2:4", tmp_path / "net.pt", project=True)
    assert done.difference <= 1e-5
    assert not torch.allclose(load_exported(tmp_path / "net.pt")(X), net(X), atol=1e-3)


def test_outputs_that_differ_are_refused_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(CondensedLinear, "bias", None, raising=False)
    wrong = lambda linear: (made := original(linear), made.values.data.mul_(1.01))[0]  # noqa: E731
    original = CondensedLinear.from_dense
    monkeypatch.undo()
    monkeypatch.setattr(CondensedLinear, "from_dense", wrong)
    (tmp_path / "net.pt").write_bytes(b"what was there")
    with pytest.raises(UserError, match=r"differ from the network's by up to .*nothing was written"):
        export_network(network(), BATCHES, "condensed", tmp_path / "net.pt")
    assert (tmp_path / "net.pt").read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_what_cannot_be_recorded_is_told(tmp_path):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = network()[3]

        def forward(self, x):
            return self.linear(x) if x.sum() > 0 else x

    with pytest.raises(UserError, match=r"torch\.jit\.trace cannot record Branching: Converting a tensor"):
        export_network(Branching(), [(torch.ones(2, 128),)], "csr", tmp_path / "net.pt")


def test_samples_repeat_where_there_are_too_few():
    (x,) = samples_of([(torch.tensor([1, 2]),), (torch.tensor([3]),)], 5)
    assert x.tolist() == [1, 2, 3, 1, 2]


def test_latencies_are_of_each_batch_size_and_number_of_threads():
    net = network().eval()
    before = torch.get_num_threads()
    rows = latencies(net, net, BATCHES, [1, 4], [1, 2], seconds=0.001)
    assert [(row.threads, row.batch) for row in rows] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert all(0 < row.before < 1 and 0 < row.after < 1 for row in rows)
    assert torch.get_num_threads() == before
