"""VGG networks for CIFAR: convolutions with batch norm, five halvings, one linear classifier.

Input [B, in_channels, 32, 32] (at least 16x16), output logits [B, n_classes].

Sources: Simonyan & Zisserman 2015, "Very Deep Convolutional Networks" (configuration E is VGG-19); the variant with
batch norm, four poolings, a final average pool and one linear layer is the one of Liu et al. 2021 (GraNet).
"""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["VGG", "vgg19"]


class VGG(nn.Module):
    """Groups of 3x3 convolutions, each with batch norm and ReLU; a max pool halves the image between groups.

    Args:
        groups: channels of the convolutions in each group.
        n_classes: logits.
        in_channels: channels of the images.

    Raises:
        ValueError: if a group is empty or a number is not positive.
    """

    def __init__(self, groups: Sequence[Sequence[int]], n_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if not groups or not all(groups):
            raise ValueError(f"groups={[list(group) for group in groups]} must be non-empty lists of channels")
        if min(n_classes, in_channels, *(channels for group in groups for channels in group)) < 1:
            raise ValueError(
                f"groups={[list(group) for group in groups]}, n_classes={n_classes} and in_channels={in_channels} "
                "must be positive"
            )
        layers: list[nn.Module] = []
        for index, group in enumerate(groups):
            if index:
                layers.append(nn.MaxPool2d(2))
            for channels in group:
                conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
                in_channels = channels
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(in_channels, n_classes)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_channels, H, W] -> logits [B, n_classes]."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg19(n_classes: int = 10, width: int = 64, in_channels: int = 3) -> VGG:
    """VGG-19 for CIFAR: 16 convolutions and one linear layer, 20,035,018 parameters for ten classes.

    Args:
        n_classes: logits.
        width: channels of the first group; the others have 2, 4, 8 and 8 times as many.
        in_channels: channels of the images.
    """
    groups = [[width] * 2, [2 * width] * 2, [4 * width] * 4, [8 * width] * 4, [8 * width] * 4]
    return VGG(groups, n_classes, in_channels)
