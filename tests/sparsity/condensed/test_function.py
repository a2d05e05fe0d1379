"""Every back end gives the masked dense layer's outputs and gradients."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from plasticity_lightning.sparsity.condensed import CondensedLinear, condense, condensed_linear, openmp
from plasticity_lightning.sparsity.condensed.cpu import CPU
from tests.sparsity.condensed.cases import compare, masked_linear
from tests.spiking.gpu_kernels import run_cases

KINDS = ("constant", "ragged", "ablated")
# one by one, each size of a tile, full, part full, several, and what is left
BATCHES = (0, 1, 3, 4, 8, 9, 13, 20, 33, 40, 64, 65, 131)
CASES = "tests/sparsity/condensed/triton_cases.py"


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def samples(n, n_inputs, dtype=torch.float32):
    return torch.randn(n, n_inputs, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_masked_dense_layer(kind, backend, dtype):
    linear = masked_linear(37, 29, 7, kind, dtype)
    for n in BATCHES:
        compare(linear, samples(n, 37, dtype), backend)


@pytest.mark.parametrize("threads", [2, 3], indirect=True)
@pytest.mark.parametrize("n", [1, 5, 64, 200])  # by outputs, and by samples
def test_threads_share_the_work(threads, n, monkeypatch):
    monkeypatch.setattr("plasticity_lightning.sparsity.condensed.cpu._WORTH_A_THREAD", 1)
    assert openmp.available()  # on Linux
    ran = []
    monkeypatch.setattr(openmp, "run", lambda *order, run=openmp.run: (ran.append(order[2]), run(*order)))
    compare(masked_linear(50, 41, 9, "ragged"), samples(n, 50), "cpu")
    assert ran == [threads, min(threads, n)] if n > 1 else ran == [threads]


@given(
    n=st.integers(0, 70), n_inputs=st.integers(1, 40), n_outputs=st.integers(1, 40), fan_in=st.integers(0, 40),
    kind=st.sampled_from(KINDS), seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=60)
def test_any_shape_equals_the_reference(n, n_inputs, n_outputs, fan_in, kind, seed):
    linear = masked_linear(n_inputs, n_outputs, min(fan_in, n_inputs), kind, seed=seed)
    for backend in ("reference", "cpu"):
        compare(linear, samples(n, n_inputs), backend)


def test_wide_inputs_have_wide_indices():
    linear = masked_linear(40_000, 5, 11, "constant")
    assert CondensedLinear.from_dense(linear).index.dtype == torch.int32
    for n in (1, 9):
        compare(linear, samples(n, 40_000), "cpu")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_by_finite_differences(backend):
    linear = masked_linear(6, 5, 3, "ablated", torch.float64)
    weight = condense(linear.weight)
    x, bias = samples(5, 6, torch.float64).requires_grad_(), linear.bias.detach().clone().requires_grad_()
    values = weight.values.clone().requires_grad_()
    assert gradcheck(lambda x, v, b: condensed_linear(x, weight._replace(values=v), b, backend), (x, values, bias))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_what_is_not_read_does_not_matter(backend):
    weight = torch.tensor([[0.0, 2.0, 0.0], [1.0, 1.0, 0.0]])  # the first row is padded; nothing reads the last input
    for n in (1, 5):
        x = torch.ones(n, 3)
        x[:, 0], x[:, 2] = torch.inf, torch.nan
        y = condensed_linear(x, condense(weight), None, backend)
        assert y.tolist() == [[2.0, torch.inf]] * n


def test_an_output_without_weights_gives_its_bias():
    weight = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    y = condensed_linear(torch.ones(2, 2), condense(weight), torch.tensor([5.0, 7.0]))
    assert y.tolist() == [[5.0, 10.0]] * 2
    assert condensed_linear(torch.ones(2, 2), condense(weight)).tolist() == [[0.0, 3.0]] * 2
    nothing = condensed_linear(torch.ones(2, 2), condense(torch.zeros(2, 2)), torch.tensor([5.0, 7.0]))
    assert nothing.tolist() == [[5.0, 7.0]] * 2


def test_leading_dimensions_stay_and_layout_does_not_matter():
    linear = masked_linear(12, 7, 3, "constant")
    x = samples(6, 24).view(2, 3, 24)[..., ::2]
    torch.testing.assert_close(condensed_linear(x, condense(linear.weight), linear.bias), linear(x))
    one = condensed_linear(x[0, 0], condense(linear.weight), linear.bias)
    torch.testing.assert_close(one, linear(x[0, 0]))


def test_auto_takes_the_compiled_kernel_where_it_can(monkeypatch):
    called = []
    monkeypatch.setattr(
        "plasticity_lightning.sparsity.condensed.function.CPU",
        CPU._replace(forward=lambda *a: (called.append(a[0].dtype), CPU.forward(*a))[1]),
    )
    weight = condense(masked_linear(4, 3, 2, "constant").weight)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        condensed_linear(torch.ones(1, 4, dtype=dtype), weight._replace(values=weight.values.to(dtype)))
    assert called == [torch.float32, torch.float64]


def test_errors_say_what_is_allowed():
    weight = condense(torch.eye(3))
    with pytest.raises(ValueError, match=r"reads 3 inputs along the last dimension, x is \(1, 4\)"):
        condensed_linear(torch.ones(1, 4), weight)
    with pytest.raises(ValueError, match=r"x is torch\.float64 on cpu, the layer torch\.float32"):
        condensed_linear(torch.ones(1, 3, dtype=torch.float64), weight)
    for bias in (torch.ones(2), torch.ones(3).double(), torch.ones(6)[::2]):
        with pytest.raises(ValueError, match=r"bias must be torch\.float32, contiguous and of size 3"):
            condensed_linear(torch.ones(1, 3), weight, bias)
    for wrong in ({"counts": weight.counts.long()}, {"index": weight.index[:2]}):
        with pytest.raises(ValueError, match=r"do not fit values \(3, 1\)"):
            condensed_linear(torch.ones(1, 3), weight._replace(**wrong))
    with pytest.raises(ValueError, match="must be contiguous; `condense` makes them so"):
        condensed_linear(torch.ones(1, 3), weight._replace(values=torch.ones(6, 1)[::2]))
    with pytest.raises(ValueError, match=r"got 'cup'.*did you mean 'cpu'"):
        condensed_linear(torch.ones(1, 3), weight, backend="cup")
    with pytest.raises(ValueError, match="takes float32 and float64 on a CPU"):
        condensed_linear(torch.ones(1, 3).half(), weight._replace(values=weight.values.half()), backend="cpu")
    with pytest.raises(ValueError, match=r"not torch\.complex64"):
        condensed_linear(torch.ones(1, 3) + 0j, weight._replace(values=weight.values + 0j))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes tensors on the CPU")
def test_triton_refuses_a_tensor_on_the_cpu():
    with pytest.raises(ValueError, match="needs tensors on CUDA, got one on cpu"):
        condensed_linear(torch.ones(1, 3), condense(torch.eye(3)), backend="triton")


def test_interpreted_triton_kernels_equal_the_masked_dense_layer():
    pytest.importorskip("triton", reason="torch comes without Triton here")
    assert run_cases(CASES, TRITON_INTERPRET="1", CONDENSED_DEVICE="cpu") == 8


@pytest.mark.gpu
def test_compiled_triton_kernels_equal_the_masked_dense_layer_on_a_gpu():
    run_cases(CASES, CONDENSED_DEVICE="cuda")
