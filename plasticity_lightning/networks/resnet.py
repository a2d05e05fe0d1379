"""Residual networks for CIFAR and ImageNet, by depth and width.

Parameters are named as in torchvision (`conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, ..., `fc`), so that
its ImageNet checkpoints load into `resnet50`. Input [B, in_channels, H, W], output logits [B, n_classes]; the average
pool is global, so any image size that survives the strides will do.

Sources: He et al. 2016, "Deep Residual Learning for Image Recognition" (section 4.2 for `cifar_resnet20`); the CIFAR
ResNet-50 is the one of Liu et al. 2021 (GraNet): ImageNet's stages behind a 3x3 stem without pooling, and a classifier
without bias.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "cifar_resnet20", "cifar_resnet50", "resnet50"]

Stem = Literal["cifar", "imagenet"]
Initialisation = Literal["default", "fan_in", "fan_out"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the first one strides.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the first convolution and the shortcut.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the 3x3 one strides, as in torchvision ("v1.5").

    Args:
        in_channels: channels of the input.
        channels: channels of the inner convolutions; the output has four times as many.
        stride: of the 3x3 convolution and the shortcut.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, 4 * channels, H / stride, W / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """Stem, stages of residual blocks (the first block of every later stage strides), global average pool, classifier.

    Args:
        block: kind of block.
        depths: blocks in each stage.
        widths: `channels` of the blocks in each stage.
        n_classes: logits.
        stem: `"cifar"`: one 3x3 convolution; `"imagenet"`: 7x7 with stride 2, then a 3x3 max pool with stride 2.
        in_channels: channels of the images.
        classifier_bias: whether the classifier has a bias.
        initialisation: of convolutions: torch's default, or He et al.'s normal distribution by fan in or fan out.

    Raises:
        ValueError: if there is no stage, or `depths` and `widths` differ in length, or a number is not positive.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        n_classes: int,
        stem: Stem = "cifar",
        in_channels: int = 3,
        classifier_bias: bool = True,
        initialisation: Initialisation = "default",
    ) -> None:
        super().__init__()
        if len(depths) != len(widths) or not depths:
            raise ValueError(f"depths={list(depths)} and widths={list(widths)} must have one entry for each stage")
        if min(*depths, *widths, n_classes, in_channels) < 1:
            raise ValueError(
                f"depths={list(depths)}, widths={list(widths)}, n_classes={n_classes} and in_channels={in_channels} "
                "must be positive"
            )
        channels = widths[0]
        if stem == "cifar":
            self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        elif stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        else:
            raise ValueError(f"stem must be 'cifar' or 'imagenet', got {stem!r}")
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        self.n_stages = len(depths)
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                blocks.append(block(channels, width, stride=2 if stage > 1 and index == 0 else 1))
                channels = width * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, n_classes, bias=classifier_bias)
        _initialise(self, initialisation)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_channels, H, W] -> logits [B, n_classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.n_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def cifar_resnet20(n_classes: int = 10, width: int = 16, in_channels: int = 3) -> ResNet:
    """ResNet-20 of He et al., section 4.2, with projection shortcuts: 272,474 parameters for ten classes.

    Args:
        n_classes: logits.
        width: channels of the first stage; the others have two and four times as many.
        in_channels: channels of the images.
    """
    return ResNet(BasicBlock, (3, 3, 3), (width, 2 * width, 4 * width), n_classes, in_channels=in_channels)


def cifar_resnet50(
    n_classes: int = 10, width: int = 64, depths: Sequence[int] = (3, 4, 6, 3), in_channels: int = 3
) -> ResNet:
    """The CIFAR ResNet-50 of Liu et al. 2021 (GraNet): 23,520,832 parameters for ten classes.

    Args:
        n_classes: logits.
        width: channels of the first stage, doubled from stage to stage.
        depths: blocks in each of the four stages.
        in_channels: channels of the images.
    """
    widths = [width * 2**stage for stage in range(len(depths))]
    return ResNet(Bottleneck, depths, widths, n_classes, in_channels=in_channels, classifier_bias=False)


def resnet50(
    n_classes: int = 1000,
    width: int = 64,
    depths: Sequence[int] = (3, 4, 6, 3),
    initialisation: Initialisation = "fan_in",
) -> ResNet:
    """ImageNet's ResNet-50 with its stride in the 3x3 convolutions: 25,557,032 parameters.

    Args:
        n_classes: logits.
        width: channels of the first stage, doubled from stage to stage.
        depths: blocks in each of the four stages.
        initialisation: see `ResNet`; Liu et al. 2021 use `"fan_in"`, torchvision `"fan_out"`.
    """
    widths = [width * 2**stage for stage in range(len(depths))]
    return ResNet(Bottleneck, depths, widths, n_classes, stem="imagenet", initialisation=initialisation)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _initialise(network: nn.Module, initialisation: Initialisation) -> None:
    if initialisation == "default":
        return
    if initialisation not in ("fan_in", "fan_out"):
        raise ValueError(f"initialisation must be 'default', 'fan_in' or 'fan_out', got {initialisation!r}")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=initialisation, nonlinearity="relu")
