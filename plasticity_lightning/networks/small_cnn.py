"""Convolutional network that a CPU trains in minutes: blocks of 3x3 convolution and pooling, one dense hidden layer."""

from collections import OrderedDict

from torch import nn

__all__ = ["SmallCNN"]


class SmallCNN(nn.Sequential):
    """Image [B, C, H, W]; block i (from 1): `conv_i` with width * 2^(i - 1) channels, `act_i`, 2x2 `pool_i`; then dense.

    Args:
        image_shape: (C, H, W); H and W must be divisible by 2^blocks.
        out_features: outputs, at least 1.
        width: channels of the first block, at least 1.
        blocks: at least 1.
        hidden: units of the dense hidden layer, at least 1.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        out_features: int = 10,
        width: int = 16,
        blocks: int = 2,
        hidden: int = 128,
    ) -> None:
        for name, value in (("out_features", out_features), ("width", width), ("blocks", blocks), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        channels, height, rows = image_shape
        if height % 2**blocks or rows % 2**blocks:
            raise ValueError(f"image_shape={image_shape}: height and width must be divisible by 2^blocks = {2**blocks}")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(1, blocks + 1):
            out_channels = width * 2 ** (i - 1)
            layers[f"conv_{i}"] = nn.Conv2d(channels, out_channels, 3, padding=1)
            layers[f"act_{i}"] = nn.ReLU()
            layers[f"pool_{i}"] = nn.MaxPool2d(2)
            channels = out_channels
        layers["flatten"] = nn.Flatten()
        layers["hidden"] = nn.Linear(channels * (height // 2**blocks) * (rows // 2**blocks), hidden)
        layers["act_hidden"] = nn.ReLU()
        layers["output"] = nn.Linear(hidden, out_features)
        super().__init__(layers)
