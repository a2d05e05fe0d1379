"""Dueling value network for discrete control from pixels: the convolutions of DQN, one dense layer, value and advantages.

Convolutions pad as flax does with "SAME": the output has ceil(side / stride) rows, and an odd pixel of padding goes to
the lower right. Frames are [B, C, H, W] in [0, 1].

Sources: Mnih et al. 2015 (convolutions), Wang et al. 2016 (dueling); Dopamine's network for Atari-100k.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

__all__ = ["DuelingValueNetwork", "xavier_init"]

_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels at width 1, kernel, stride


class DuelingValueNetwork(nn.Module):
    """Frames [B, C, H, W] -> values of the actions [B, n_actions].

    Args:
        observation_shape: (C, H, W) of a stack of frames.
        n_actions: number of actions, at least 1.
        width: factor on the published channels 32, 64, 64, at least 1/32.
        hidden: units of the dense layer.

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(
        self, observation_shape: tuple[int, int, int], n_actions: int, width: float = 1.0, hidden: int = 512
    ) -> None:
        super().__init__()
        if min(*observation_shape, n_actions, hidden, int(32 * width)) < 1:
            raise ValueError(
                f"observation_shape={tuple(observation_shape)}, n_actions={n_actions}, hidden={hidden} and "
                f"32 * width={32 * width} must be at least 1"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs, sides = observation_shape[0], list(observation_shape[1:])
        for i, (published, kernel, stride) in enumerate(_CONVOLUTIONS, start=1):
            channels = int(published * width)
            rows, columns = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides)
            layers[f"pad_{i}"] = nn.ZeroPad2d((columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            layers[f"conv_{i}"] = nn.Conv2d(inputs, channels, kernel, stride)
            layers[f"act_{i}"] = nn.ReLU()
            inputs, sides = channels, [-(-side // stride) for side in sides]
        layers["flatten"] = nn.Flatten()
        self.encoder = nn.Sequential(layers)
        self.head = nn.Sequential(OrderedDict(hidden=nn.Linear(inputs * sides[0] * sides[1], hidden), act=nn.ReLU()))
        self.value, self.advantage = nn.Linear(hidden, 1), nn.Linear(hidden, n_actions)
        self.apply(xavier_init)

    def forward(self, frames: Tensor) -> Tensor:
        """Value of the state plus the advantage of each action over their mean."""
        h = self.head(self.encoder(frames))
        advantage = self.advantage(h)
        return self.value(h) + advantage - advantage.mean(dim=1, keepdim=True)


def xavier_init(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for Linear and convolutions; for `module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
