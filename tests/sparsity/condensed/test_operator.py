"""The operator by which graphs that torch records name a condensed layer."""

import torch
from torch import nn

from plasticity_lightning.sparsity.condensed import CondensedLinear
from plasticity_lightning.sparsity.condensed.operator import recorded_linear
from tests.sparsity.condensed.cases import masked_linear


def test_the_operator_computes_the_layer():
    layer = CondensedLinear.from_dense(masked_linear(9, 8, 3, "ablated"))
    x = torch.randn(2, 5, 9)
    with torch.no_grad():
        assert torch.equal(recorded_linear(x, layer.condensed, layer.bias), layer(x))


def test_torch_export_records_it_for_any_batch_size():
    net = nn.Sequential(CondensedLinear.from_dense(masked_linear(9, 8, 3, "ragged")), nn.ReLU()).eval()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        recorded = torch.export.export(net, (torch.randn(3, 9),), dynamic_shapes=({0: batch},))
        assert "plasticity_lightning.condensed_linear" in str(recorded.graph)
        x = torch.randn(7, 9)
        assert torch.equal(recorded.module()(x), net(x))
