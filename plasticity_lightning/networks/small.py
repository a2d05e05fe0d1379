"""Networks that train on two CPU cores in minutes: LeNet-300-100 and two small convolutional nets.

Sources: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition" (the 300-100 net, the standard
small benchmark of pruning); the convolutional nets are this package's own.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["SmallCNN", "SmallConvNet", "lenet_300_100", "small_conv_net"]


class SmallConvNet(nn.Module):
    """Stride-2 convolutions with batch norm and ReLU, each followed by convolutions of the same width; a linear classifier.

    Most weights lie where the images are small, so that a step is cheap for its number of parameters.

    Args:
        widths: channels of each stage; each stage halves the image.
        depths: convolutions in each stage, the striding one included.
        n_classes: logits.
        in_channels: channels of the images.

    Raises:
        ValueError: if `widths` and `depths` differ in length, are empty, or a number is not positive.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], n_classes: int, in_channels: int) -> None:
        super().__init__()
        if len(widths) != len(depths) or not widths:
            raise ValueError(f"widths={list(widths)} and depths={list(depths)} must have one entry for each stage")
        if min(*widths, *depths, n_classes, in_channels) < 1:
            raise ValueError(
                f"widths={list(widths)}, depths={list(depths)}, n_classes={n_classes} and in_channels={in_channels} "
                "must be positive"
            )
        layers: list[nn.Module] = []
        for width, depth in zip(widths, depths, strict=True):
            for index in range(depth):
                stride = 2 if index == 0 else 1
                conv = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(in_channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_channels, H, W] -> logits [B, n_classes]."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def lenet_300_100(n_inputs: int = 784, n_classes: int = 10, widths: Sequence[int] = (300, 100)) -> nn.Sequential:
    """Fully connected net with ReLU, 266,610 parameters at the defaults; flattens its input [B, ...] to [B, n_inputs].

    Args:
        n_inputs: pixels times channels.
        n_classes: logits.
        widths: units of the hidden layers.

    Raises:
        ValueError: if a number is not positive.
    """
    sizes = [n_inputs, *widths, n_classes]
    if min(sizes) < 1:
        raise ValueError(f"n_inputs={n_inputs}, widths={list(widths)} and n_classes={n_classes} must be positive")
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def small_conv_net(
    n_classes: int = 10,
    widths: Sequence[int] = (16, 32, 64, 128),
    depths: Sequence[int] = (1, 1, 1, 2),
    in_channels: int = 3,
) -> SmallConvNet:
    """`SmallConvNet` with defaults for 32x32 images: 246,682 parameters, 1.6 million multiply-adds an image.

    Args:
        n_classes: logits.
        widths: channels of each stage.
        depths: convolutions in each stage.
        in_channels: channels of the images.
    """
    return SmallConvNet(widths, depths, n_classes, in_channels)


class SmallCNN(nn.Sequential):
    """Blocks of 3x3 convolution and pooling, one dense hidden layer.

    Image [B, C, H, W]; block i (from 1): `conv_i` with width * 2^(i - 1) channels, `act_i`, 2x2 `pool_i`; then dense.

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
