"""Encoder, actor and twin critic for control from pixels.

The networks of DrQ-v2: four convolutions, then for actor and critic each a trunk that squeezes the 39,200 features of
84x84 frames to 50, then two hidden layers. Sizes are arguments, so that small tasks train on small networks. Every
nonlinearity is a module that hooks can see. Frames are [B, C, H, W], scaled to [-0.5, 0.5].

Source: Yarats et al. 2021, "Mastering Visual Continuous Control" (DrQ-v2), and its published code.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["PixelActor", "PixelEncoder", "TwinCritic", "orthogonal_init"]


class PixelEncoder(nn.Sequential):
    """A 3x3 convolution of stride 2, then three of stride 1, each followed by ReLU; the feature maps are flattened.

    Layers are `conv_1`, `act_1` to `conv_4`, `act_4`, `flatten`.

    Args:
        observation_shape: (C, H, W) of a stack of frames.
        channels: feature maps of each convolution, at least 1.

    Attributes:
        features: length of the flattened output; 39,200 for 84x84 frames and 32 channels.

    Raises:
        ValueError: if a number is not positive, or the frames are smaller than the kernels reach.
    """

    def __init__(self, observation_shape: tuple[int, int, int], channels: int = 32) -> None:
        if channels < 1 or observation_shape[0] < 1:
            raise ValueError(f"channels={channels} and observation_shape={tuple(observation_shape)} must be positive")
        sides = [_side_behind_convolutions(side) for side in observation_shape[1:]]
        if min(sides) < 1:
            raise ValueError(
                f"observation_shape={tuple(observation_shape)}: the four 3x3 convolutions need frames of at least 15x15"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(1, 5):
            inputs = observation_shape[0] if i == 1 else channels
            layers[f"conv_{i}"] = nn.Conv2d(inputs, channels, 3, stride=2 if i == 1 else 1)
            layers[f"act_{i}"] = nn.ReLU()
        layers["flatten"] = nn.Flatten()
        super().__init__(layers)
        self.features = channels * sides[0] * sides[1]
        self.apply(orthogonal_init)


class PixelActor(nn.Module):
    """Encoded frames [B, features] -> mean action [B, n_actions] in (-1, 1).

    Args:
        features: inputs, as `PixelEncoder.features`.
        n_actions: dimensions of the action.
        trunk: units of the normalised bottleneck.
        hidden: units of the two hidden layers.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(self, features: int, n_actions: int, trunk: int = 50, hidden: int = 1024) -> None:
        super().__init__()
        _check_positive(features=features, n_actions=n_actions, trunk=trunk, hidden=hidden)
        self.trunk = _trunk(features, trunk)
        self.policy = _head(trunk, hidden, n_actions)
        self.apply(orthogonal_init)

    def forward(self, encoded: Tensor) -> Tensor:
        """Mean action of each sample, in float32 at least.

        In bfloat16 tanh is exactly 1 from about 3.5 on, and an actor that has come so far would get no gradient back.
        """
        return torch.tanh(_float32_at_least(self.policy(self.trunk(encoded))))


class TwinCritic(nn.Module):
    """Encoded frames [B, features] and actions [B, n_actions] -> two estimates of the return, [B, 1] each.

    Args:
        features: inputs, as `PixelEncoder.features`.
        n_actions: dimensions of the action.
        trunk: units of the normalised bottleneck, shared by both estimates.
        hidden: units of the two hidden layers of each estimate.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(self, features: int, n_actions: int, trunk: int = 50, hidden: int = 1024) -> None:
        super().__init__()
        _check_positive(features=features, n_actions=n_actions, trunk=trunk, hidden=hidden)
        self.trunk = _trunk(features, trunk)
        self.q1 = _head(trunk + n_actions, hidden, 1)
        self.q2 = _head(trunk + n_actions, hidden, 1)
        self.apply(orthogonal_init)

    def forward(self, encoded: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q1 and Q2 of each sample, in float32 at least: targets add small rewards to them."""
        h = self.trunk(encoded)
        joined = torch.cat([h, action.to(h.dtype)], dim=-1)
        return _float32_at_least(self.q1(joined)), _float32_at_least(self.q2(joined))


def orthogonal_init(module: nn.Module) -> None:
    """Orthogonal weights, gain 1 for Linear and sqrt(2) for convolutions, biases 0; for `module.apply`."""
    if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        return
    gain = 1.0 if isinstance(module, nn.Linear) else nn.init.calculate_gain("relu")
    # torch's initialiser does not take weights in channels_last memory
    plain = torch.empty_like(module.weight, memory_format=torch.contiguous_format)
    with torch.no_grad():
        module.weight.copy_(nn.init.orthogonal_(plain, gain))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _trunk(inputs: int, outputs: int) -> nn.Sequential:
    layers = OrderedDict(linear=nn.Linear(inputs, outputs), norm=nn.LayerNorm(outputs), act=nn.Tanh())
    return nn.Sequential(layers)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["hidden_1"], layers["act_1"] = nn.Linear(inputs, hidden), nn.ReLU()
    layers["hidden_2"], layers["act_2"] = nn.Linear(hidden, hidden), nn.ReLU()
    layers["output"] = nn.Linear(hidden, outputs)
    return nn.Sequential(layers)


def _float32_at_least(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _side_behind_convolutions(side: int) -> int:
    return (side - 3) // 2 + 1 - 3 * 2


def _check_positive(**sizes: int) -> None:
    if min(sizes.values()) < 1:
        raise ValueError(f"sizes must be at least 1, got {', '.join(f'{name}={size}' for name, size in sizes.items())}")
