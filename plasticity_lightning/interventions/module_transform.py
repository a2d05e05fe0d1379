"""Changes of architecture that keep networks plastic: CReLU, normalised outputs.

CReLU(x) = [ReLU(x), ReLU(-x)] passes a gradient for every input, so no unit dies; it doubles the width, and so the layer
before it is halved here. Sources: Shang et al. 2016 (CReLU), Abbas et al. 2023 (loss of plasticity), Lyle et al. 2023
(layer normalisation).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["CReLU", "LayerNormed", "halve_width", "insert_crelu"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class CReLU(nn.Module):
    """[ReLU(x), ReLU(-x)] along dimension `dim`, which doubles."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the two halves of the sign."""
        return torch.cat([x.relu(), (-x).relu()], self.dim)

    def extra_repr(self) -> str:
        """The dimension."""
        return f"dim={self.dim}"


class LayerNormed(nn.Sequential):
    """A layer followed by the normalisation of its output.

    LayerNorm over the units of a Linear layer, and for a convolution GroupNorm with one group (over channels and
    positions, scale and shift per channel), whatever dimensions stand before the channels (batch, time steps).

    Raises:
        ValueError: for another kind of layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear):
            norm: nn.Module = nn.LayerNorm(layer.out_features)
        elif isinstance(layer, _CONVOLUTIONS):
            norm = _SampleNorm(layer.out_channels, len(layer.kernel_size))
        else:
            raise ValueError(f"only Linear and convolutions can be followed by a norm, got {type(layer).__name__}")
        super().__init__(layer, norm.to(layer.weight))


class _SampleNorm(nn.GroupNorm):
    """GroupNorm with one group that finds the channels from the end, as multi-step layers ([T, B, C, H, W]) need it."""

    def __init__(self, channels: int, spatial: int) -> None:
        super().__init__(1, channels)
        self.spatial = spatial

    def forward(self, x: Tensor) -> Tensor:
        """Tensor [..., C, *positions] of the same shape."""
        lead = x.shape[: -self.spatial - 1]
        return super().forward(x.reshape(-1, *x.shape[len(lead) :])).view(x.shape)


def halve_width(layer: nn.Module) -> nn.Module:
    """New layer of the same kind and settings with half the outputs, initialised by itself.

    Raises:
        ValueError: if the number of outputs is odd or the kind is not Linear, a convolution or BatchNorm.
    """
    halved: nn.Module
    if isinstance(layer, nn.Linear):
        halved = nn.Linear(layer.in_features, _half(layer.out_features), layer.bias is not None)
    elif isinstance(layer, _CONVOLUTIONS):
        make: Callable[..., nn.Module] = type(layer)
        halved = make(
            layer.in_channels,
            _half(layer.out_channels),
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
        )
    elif isinstance(layer, _BATCH_NORMS):
        halved = type(layer)(
            _half(layer.num_features), layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        )
    elif isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        halved = nn.LayerNorm(_half(layer.normalized_shape[0]), layer.eps, layer.elementwise_affine)
    else:
        raise ValueError(f"the width of {type(layer).__name__} cannot be halved")
    if hasattr(layer, "step_mode"):  # SpikingJelly's layers: single-step or multi-step
        halved.step_mode = layer.step_mode
    tensor = next(iter((*layer.parameters(), *layer.buffers())), None)
    return halved if tensor is None else halved.to(tensor)


def insert_crelu(sequence: nn.Sequential, index: int) -> None:
    """Replace the ReLU at `index` by a CReLU and halve the layers before it, so that all widths stay.

    Args:
        sequence: ... layer, (norms, dropouts,) ReLU, ...; changed in place.
        index: position of the ReLU.

    Raises:
        ValueError: if the layer before cannot be halved or something unknown stands between.
    """
    for before in range(index - 1, -1, -1):
        layer = sequence[before]
        if isinstance(layer, nn.Dropout | nn.Identity):
            continue
        sequence[before] = halve_width(layer)
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            dim = -1 if isinstance(layer, nn.Linear) else -len(layer.kernel_size) - 1
            sequence[index] = CReLU(dim)
            return
    raise ValueError("no Linear layer or convolution stands before the ReLU in its Sequential")


def _half(width: int) -> int:
    if width % 2:
        raise ValueError(f"a width of {width} cannot be halved: it is odd")
    return width // 2
