"""Absent weights become exactly 0, whatever they were, and nothing else changes."""

import pytest
import torch

from plasticity_lightning.sparsity.silence import as_bits, silence, silence_copies, silence_moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_silence_makes_zeros_of_whatever_was_there_and_leaves_the_rest_bit_for_bit(dtype, memory_format):
    values = torch.randn(2, 3, 4, 5, dtype=dtype).to(memory_format=memory_format)
    values[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")]).to(dtype)
    values[1, 0, 0, 0] = float("nan")
    mask = torch.arange(120).view(2, 3, 4, 5) % 3 == 1
    mask[0, 0, 0, :3], mask[1, 0, 0, 0] = False, True
    parameter = torch.nn.Parameter(values.clone(memory_format=torch.preserve_format))
    silence([parameter], [as_bits(mask, parameter)])
    assert (parameter[~mask] == 0).all()
    if dtype != torch.complex64:
        assert not torch.signbit(parameter[~mask]).any()  # not -0.0
    assert torch.equal(parameter.detach()[mask].nan_to_num(7.0), values[mask].nan_to_num(7.0))
    assert parameter.is_contiguous(memory_format=memory_format)
    silence([], [])


def test_moments_and_copies_follow_and_what_has_another_shape_is_left_alone():
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    mask = torch.tensor([[True, False, True], [False, False, True]])
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.full((2, 3), float("inf"))
    parameter.grad[mask] = 1.0
    optimizer.step()
    silence_moments(optimizer, parameter, mask)
    state = optimizer.state[parameter]
    assert int(state["step"]) == 1
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[name] != 0, mask)
    copies = {"w": torch.full((2, 3), float("nan"), dtype=torch.float64), "other": torch.ones(2, 3)}
    silence_copies(copies, {"w": mask, "absent": mask})
    assert (copies["w"][~mask] == 0).all()
    assert copies["w"][mask].isnan().all()
    assert copies["other"].all()
