"""Networks by hand, with structures that are easy to get wrong: concatenated skips, projections, gates, stacked experts, two kinds of attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.strangers.networks import Wrapped, batches

__all__ = ["NETWORKS"]


class UNet(nn.Module):
    """Two levels; the skip is concatenated behind the upsampled path."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.down2 = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.merge, self.out = nn.Conv2d(9, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.norm1(self.down1(x)))
        deep = F.relu(self.down2(F.max_pool2d(skip, 2)))
        joined = torch.cat([F.relu(self.up(deep)), skip], dim=1)
        return self.out(F.relu(self.merge(joined)))


class GatedRecurrent(nn.Module):
    """An LSTM with projection, a GRU, and a gate of two linear layers on top."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 8, proj_size=5, batch_first=True)
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.value, self.gate, self.out = nn.Linear(6, 7), nn.Linear(6, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        last = self.gru(self.lstm(x)[0])[0][:, -1]
        return self.out(torch.sigmoid(self.gate(last)) * torch.tanh(self.value(last)))


class Experts(nn.Module):
    """A mixture of experts whose weights are stacked; the router sends every item to the best one."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4)
        self.w_in = nn.Parameter(torch.randn(4, 6, 8) * 0.3)
        self.w_out = nn.Parameter(torch.randn(4, 8, 3) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        share = self.router(x).softmax(-1)
        best = share.argmax(-1)
        hidden = torch.relu(torch.einsum("bi,bih->bh", x, self.w_in[best]))
        return torch.einsum("bh,bho->bo", hidden, self.w_out[best]) * share.gather(1, best[:, None])


class CrossAttention(nn.Module):
    """Queries, keys and values of three widths."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=6, batch_first=True)
        self.hidden, self.out = nn.Linear(8, 10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x[..., :8], x[..., 8:13], x[..., 13:])
        return self.out(F.gelu(self.hidden(mixed))).mean(1)


class TCN(nn.Module):
    """Causal convolutions with weight norm, dilated, with residual connections."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.first = norm(nn.Conv1d(2, 6, 3))
        self.blocks = nn.ModuleList(norm(nn.Conv1d(6, 6, 3, dilation=2**i)) for i in range(2))
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(F.pad(x, (2, 0))))
        for i, block in enumerate(self.blocks):
            y = y + F.relu(block(F.pad(y, (2 * 2**i, 0))))
        return self.out(y[..., -1])


class Separable(nn.Module):
    """Depthwise and pointwise convolutions in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depth1, self.point1 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1)
        self.depth2, self.point2 = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 6, 1)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depth1(F.relu(self.stem(x))))
        x = F.relu(self.depth2(F.relu(self.point1(x))))
        return self.out(F.relu(self.point2(x)).mean((2, 3)))


class Decoder(nn.Module):
    """torch's own decoder of a transformer, with tokens on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.memory = nn.Embedding(11, 8), nn.Linear(4, 8)
        layer = nn.TransformerDecoderLayer(8, 2, dim_feedforward=12, dropout=0.0, batch_first=True)
        self.decoder, self.out = nn.TransformerDecoder(layer, 2), nn.Linear(8, 11)

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        tokens, memory = x
        return self.out(self.decoder(self.embedding(tokens), self.memory(memory)))


def _fits(network: nn.Module, batch: tuple) -> Tensor:
    return network(batch).square().mean() if isinstance(network, Decoder) else network(batch[0]).square().mean()


def _built(kind: type[nn.Module], *shape: int) -> Callable[[], tuple[Wrapped, DataLoader]]:
    return lambda: (Wrapped(kind(), _fits), batches(lambda g: (torch.randn(*shape, generator=g),)))


def _decoder() -> tuple[Wrapped, DataLoader]:
    return Wrapped(Decoder(), _fits), batches(
        lambda g: (torch.randint(11, (3, 5), generator=g), torch.randn(3, 4, 4, generator=g))
    )


NETWORKS: dict[str, Callable[[], tuple[Wrapped, DataLoader]]] = {
    "unet": _built(UNet, 3, 1, 8, 8),
    "gated recurrent": _built(GatedRecurrent, 4, 5, 3),
    "experts": _built(Experts, 16, 6),
    "cross attention": _built(CrossAttention, 3, 4, 19),
    "tcn": _built(TCN, 4, 2, 9),
    "separable": _built(Separable, 3, 3, 6, 6),
    "decoder": _decoder,
}
