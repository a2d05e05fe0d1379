"""FLOPs of a small convolutional network, computed by hand."""

import pytest
import torch
from torch import nn

from plasticity_lightning.sparsity.flops import (
    dense_gradient_step_flops,
    inference_flops,
    layer_positions,
    rigl_training_flops,
    training_flops,
    watch_positions,
)


def test_a_convolutional_net_by_hand():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 9, 10)
    )
    with watch_positions(net) as positions:
        net(torch.zeros(5, 1, 11, 11))
        net(torch.zeros(5, 1, 11, 11))  # counted once
    # 11 x 11 -> stride 2, kernel 3: 5 x 5 -> 3 x 3
    assert positions == {"0.weight": 25, "2.weight": 9, "4.weight": 1}
    living = {"0.weight": 36, "2.weight": 144, "4.weight": 720}
    assert inference_flops(living, positions) == 2 * (36 * 25 + 144 * 9 + 720)
    # a quarter of the second layer lives
    assert inference_flops(living | {"2.weight": 36}, positions) == 2 * (900 + 324 + 720)
    assert not net[0]._forward_hooks


def test_sequences_transposed_convolutions_and_shared_weights():
    linear = nn.Linear(3, 2)
    assert layer_positions(linear, torch.zeros(4, 7, 3), torch.zeros(4, 7, 2)) == 7
    up = nn.ConvTranspose2d(2, 3, 4, stride=2)
    assert layer_positions(up, torch.zeros(1, 2, 5, 6), up(torch.zeros(1, 2, 5, 6))) == 30
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with watch_positions(tied) as positions:
        tied(torch.zeros(2, 3))
    assert positions == {"0.weight": 2}
    with pytest.raises(TypeError, match="ReLU"):
        layer_positions(nn.ReLU(), torch.zeros(1), torch.zeros(1))


def test_training_formulas_by_hand():
    assert training_flops(10) == 30
    assert dense_gradient_step_flops(10, 100) == 120
    # (30 * 99 + 120) / 100
    assert rigl_training_flops(10, 100, 99) == pytest.approx(30.9)
    with pytest.raises(ValueError, match="every=0"):
        rigl_training_flops(1, 1, 0)
