"""Export: a stripped state_dict loads into the plain module, CSR round trip, 2:4 refusals."""

import pytest
import torch
from torch import nn

from plasticity_lightning.sparsity.export import from_csr, strip, to_csr, to_semi_structured
from plasticity_lightning.sparsity.structured import limit_mask


def test_strip_loads_strictly_into_the_plain_module():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    state = {f"model._orig_mod.{name}": tensor for name, tensor in net.state_dict().items()}
    plain = strip(state, {"model.0.weight": mask}, prefix="model.")
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    other.load_state_dict(plain)
    assert torch.equal(other[0].weight, net[0].weight * mask)
    assert torch.equal(other[1].weight, net[1].weight)
    assert not torch.equal(net[0].weight, other[0].weight)  # copies: the source is untouched


def test_strip_refuses_what_does_not_fit():
    state = nn.Linear(2, 2).state_dict()
    with pytest.raises(ValueError, match="'w' fits no entry"):
        strip(state, {"w": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"is \(1, 2\), the weight \(2, 2\)"):
        strip(state, {"weight": torch.ones(1, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"prefix='net\.' matches no entry"):
        strip(state, {}, prefix="net.")


def test_csr_holds_the_living_weights_only_and_multiplies():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 2, 3, 3, generator=generator)
    mask = torch.rand(weight.shape, generator=generator) > 0.7
    matrix = to_csr(weight, mask)
    assert matrix.values().numel() == int(mask.sum())
    assert torch.equal(from_csr(matrix, weight.shape), weight * mask)
    x = torch.randn(18, 3, generator=generator)
    assert torch.allclose(matrix @ x, (weight * mask).flatten(1) @ x, atol=1e-6)


def test_semi_structured_is_refused_where_it_cannot_be():
    weight = torch.ones(32, 64)
    with pytest.raises(ValueError, match="more than 2 of 4"):
        to_semi_structured(weight, torch.ones_like(weight, dtype=torch.bool))
    with pytest.raises(ValueError, match="is for matrices"):
        to_semi_structured(torch.ones(1, 4, 1, 1), torch.ones(1, 4, 1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="CUDA devices only"):
        to_semi_structured(weight, limit_mask(weight, 2, 4))


@pytest.mark.gpu
def test_semi_structured_product_on_a_gpu():
    weight = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    mask = limit_mask(weight.abs(), 2, 4)
    x = torch.randn(128, 64, device="cuda", dtype=torch.float16)
    torch.testing.assert_close(to_semi_structured(weight, mask) @ x, (weight * mask) @ x, rtol=1e-2, atol=1e-2)
