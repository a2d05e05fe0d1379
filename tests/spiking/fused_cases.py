"""Cases of the fused back end against the torch one. Run by `test_fused.py`: on the CPU in Triton's interpreter, or on a GPU at full size.

Not collected by itself, since Triton must be told to interpret before it is imported.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, monitor, surrogate

from plasticity_lightning.spiking.backends import BackendNode, set_backend
from plasticity_lightning.spiking.izhikevich_nodes import CapacitanceIzhikevichNode, IzhikevichNode
from plasticity_lightning.spiking.neurons import RefractoryLIFNode

DEVICE = os.environ.get("FUSED_DEVICE", "cpu")
FULL_SIZE = DEVICE == "cuda"
N_STEPS, N_BATCH, N_CHANNELS, SIDE = (200, 64, 32, 16) if FULL_SIZE else (24, 2, 3, 3)


def varied(low: float, high: float, seed: int = 0) -> torch.Tensor:
    """One parameter per channel, [C, 1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(N_CHANNELS, 1, 1, generator=generator)


def lif(**arguments: object) -> RefractoryLIFNode:
    return RefractoryLIFNode(**{"tau": 7.3, "step_mode": "m", **arguments})


def izhikevich(**arguments: object) -> IzhikevichNode:
    cells = {"a": varied(0.02, 0.1), "b": varied(0.2, 0.25, 1), "c": varied(-65, -55, 2), "d": varied(2, 8, 3)}
    return IzhikevichNode(**{**cells, "bias": 15.0, "step_mode": "m", **arguments})


def capacitance(**arguments: object) -> CapacitanceIzhikevichNode:
    # a coarser step than the papers', so that neurons fire within few steps
    cells = {"a": varied(0.02, 0.1), "capacitance": varied(100, 200, 1)}
    return CapacitanceIzhikevichNode(**{**cells, "bias": 4000.0, "dt": 0.4, "step_mode": "m", **arguments})


CASES: dict[str, tuple[Callable[..., BackendNode], float]] = {
    "lif": (lif, 30.0),
    "lif-no-dead-time": (lambda **x: lif(refractory=0, v_reset=-3.0, **x), 30.0),
    "izhikevich": (izhikevich, 15.0),
    "izhikevich-one-substep": (lambda **x: izhikevich(substeps=1, dt=0.5, **x), 15.0),
    "izhikevich-unclamped": (lambda **x: izhikevich(clamp=False, dt=0.5, **x), 15.0),
    "capacitance": (capacitance, 800.0),
}


def currents(scale: float, n_steps: int = N_STEPS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return (scale * torch.randn(n_steps, N_BATCH, N_CHANNELS, SIDE, SIDE, generator=generator)).to(DEVICE)


def run(node: BackendNode, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Spikes and states of two calls, and the gradient of all of it for the input."""
    node = node.to(DEVICE)
    x = x.clone().requires_grad_()
    spikes = torch.cat([node(x), node(x[: len(x) // 4])])
    states = [value for value in node._memories.values() if value.is_floating_point()]
    weight = torch.arange(spikes.numel(), device=DEVICE).reshape(spikes.shape).sin()
    (spikes * weight).sum().add(sum(1e-2 * state.sum() for state in states)).backward()
    return spikes.detach(), [state.detach() for state in states], x.grad


@pytest.mark.parametrize("function", [surrogate.Sigmoid(), surrogate.ATan(alpha=1.5), surrogate.Erf()], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_equal_spikes_states_and_gradients(case: str, function: torch.nn.Module) -> None:
    make, scale = CASES[case]
    x = currents(scale)
    expected = run(make(surrogate_function=function, backend="torch"), x)
    actual = run(make(surrogate_function=function, backend="triton"), x)
    rate = float(expected[0].mean())
    assert 0.005 < rate < 0.5, "neither silence nor constant firing compares much"
    assert torch.equal(actual[0], expected[0])
    for a, b in zip(actual[1], expected[1], strict=True):
        assert torch.equal(a, b)
    assert float(expected[2].abs().max()) > 0
    torch.testing.assert_close(actual[2], expected[2], rtol=1e-5, atol=1e-5 * float(expected[2].abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_single_steps_equal_a_sequence(case: str) -> None:
    make, scale = CASES[case]
    x = currents(scale, 12)
    sequence = make(backend="triton").to(DEVICE)
    single = make(backend="triton").to(DEVICE)
    expected = sequence(x)
    functional.set_step_mode(single, "s")
    actual = torch.stack([single(step) for step in x])
    assert torch.equal(actual, expected)
    assert torch.equal(single.v, sequence.v)
    functional.reset_net(single)
    functional.set_step_mode(single, "m")
    assert torch.equal(single(x), expected)


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_the_initial_state(case: str) -> None:
    make, scale = CASES[case]
    x = currents(scale, 10)
    gradients = []
    for backend in ("torch", "triton"):
        node = make(backend=backend).to(DEVICE)
        states = node.materialize_states((x,), tuple(node._memories.values()), "m")
        states = tuple(s.clone().requires_grad_() if s.is_floating_point() else s for s in states)
        (spikes,), after = node.functional_forward((x,), states)
        loss = spikes.sum() + sum((s * s).sum() for s in after if s.is_floating_point())
        gradients.append(torch.autograd.grad(loss, [s for s in states if s.requires_grad]))
    for actual, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_an_empty_sequence_and_an_empty_batch_pass() -> None:
    for make, _ in CASES.values():
        node = make(backend="triton").to(DEVICE)
        assert node(torch.zeros(5, 0, N_CHANNELS, SIDE, SIDE, device=DEVICE)).shape == (5, 0, N_CHANNELS, SIDE, SIDE)


def test_in_a_network_with_monitor_checkpoint_and_copies() -> None:
    def network(backend: str) -> torch.nn.Sequential:
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            layer.Conv2d(N_CHANNELS, 4, 3, bias=False),
            RefractoryLIFNode(tau=5.0, v_threshold=0.5),
            layer.Conv2d(4, 5, 1, bias=False),
            IzhikevichNode(bias=torch.linspace(8, 20, 5)[:, None, None]),
        )
        functional.set_step_mode(net, "m")
        set_backend(net, backend)
        return net.to(DEVICE)

    net, expected_net = network("triton"), network("torch")
    assert [m.backend for m in net.modules() if isinstance(m, BackendNode)] == ["triton", "triton"]
    x = currents(1.0, 16)
    spikes = monitor.OutputMonitor(net, (RefractoryLIFNode, IzhikevichNode))
    out, expected = net(x), expected_net(x)
    assert [tuple(r.shape[:2]) for r in spikes.records] == [(16, N_BATCH)] * 2
    assert bool(out.any())
    assert torch.equal(out, expected)
    spikes.remove_hooks()

    out.sum().backward()
    expected.sum().backward()
    reference = expected_net[0].weight.grad
    torch.testing.assert_close(net[0].weight.grad, reference, rtol=1e-5, atol=1e-5 * float(reference.abs().max()))

    functional.detach_net(net)
    again = network("triton")
    again.load_state_dict(net.state_dict())
    assert torch.equal(again[3].bias, net[3].bias)
    again(x)
    functional.detach_net(again)
    for twin in (copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert torch.equal(twin(x), net(x))  # states are copied with the node
        functional.reset_net(net)
        net(x)
        functional.detach_net(net)
    functional.reset_net(again)
    checkpointed = torch.utils.checkpoint.checkpoint(
        lambda y: network("triton")(y), x.requires_grad_(), use_reentrant=False
    )
    assert torch.equal(checkpointed, again(x))
    checkpointed.sum().backward()
    assert float(x.grad.abs().max()) > 0


def test_what_the_kernels_cannot_do_is_refused() -> None:
    node = lif(backend="triton")
    with pytest.raises(ValueError, match=r"takes float32, got torch\.float64"):
        node.to(DEVICE)(currents(1.0, 2).double())
    with pytest.raises(ValueError, match="did you mean 'triton'"):
        node.backend = "tritn"
    smooth = lif(backend="triton", surrogate_function=surrogate.Sigmoid(spiking=False))
    with pytest.raises(ValueError, match="spiking=False"):
        smooth.to(DEVICE)(currents(1.0, 2))
