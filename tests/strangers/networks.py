"""Networks that this package's authors did not write, tiny and untrained, each as a LightningModule with random data.

Only packages from a registry and no pretrained weights: every network is built from its configuration. Imports are
inside the builders, so that one missing package costs one row of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

__all__ = ["NETWORKS", "Wrapped"]

Built = tuple[Any, Any]  # module, data loader
N_BATCHES = 6


class Wrapped(pl.LightningModule):
    """A plain network with a loss; knows nothing of plasticity."""

    def __init__(self, network: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(self.network, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Batches(Dataset):
    """The same random batches in every run."""

    def __init__(self, make: Callable[[torch.Generator], Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = [make(generator) for _ in range(N_BATCHES)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


def batches(make: Callable[[torch.Generator], Any]) -> DataLoader:
    return DataLoader(Batches(make), batch_size=None)


def _images(size: int = 32, channels: int = 3, n: int = 4) -> DataLoader:
    return batches(lambda g: (torch.randn(n, channels, size, size, generator=g), torch.arange(n) % 3))


def _classify(network: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(network(batch[0]), batch[1])


def _timm(name: str, **settings: Any) -> Callable[[], Built]:
    def build() -> Built:
        import timm

        return Wrapped(timm.create_model(name, num_classes=3, **settings), _classify), _images()

    return build


def _language_model(kind: str, **settings: Any) -> Callable[[], Built]:
    def build() -> Built:
        import transformers

        config = getattr(transformers, f"{kind}Config")(vocab_size=50, **settings)
        heads = {"GPT2": "GPT2LMHeadModel", "Bert": "BertForMaskedLM"}
        network = getattr(transformers, heads.get(kind, f"{kind}ForCausalLM"))(config)
        loader = batches(lambda g: torch.randint(0, 50, (2, 8), generator=g))
        return Wrapped(network, lambda net, ids: net(input_ids=ids, labels=ids).loss), loader

    return build


def _graph(kind: str) -> Callable[[], Built]:
    def build() -> Built:
        import torch_geometric.nn as geometric

        network = getattr(geometric, kind)(8, 16, 2, 3)
        edges = torch.stack([torch.arange(20), (torch.arange(20) * 7 + 1) % 20])
        loader = batches(lambda g: (torch.randn(20, 8, generator=g), torch.arange(20) % 3))
        return Wrapped(network, lambda net, b: F.cross_entropy(net(b[0], edges), b[1])), loader

    return build


def _chemprop() -> Built:
    from chemprop import data, models
    from chemprop import nn as chem

    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCC", "CNC", "COC", "CCCl"] * 3
    points = [data.MoleculeDatapoint.from_smi(s, [float(len(s))]) for s in smiles]
    loader = data.build_dataloader(data.MoleculeDataset(points), batch_size=4, shuffle=False)
    network = models.MPNN(chem.BondMessagePassing(d_h=16), chem.MeanAggregation(), chem.RegressionFFN(input_dim=16))
    return network, loader


def _temporal_fusion_transformer() -> Built:
    import numpy as np
    import pandas as pd
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.data import GroupNormalizer

    steps, series = 30, 3
    frame = pd.DataFrame(
        {
            "time": np.tile(np.arange(steps), series),
            "series": np.repeat([str(i) for i in range(series)], steps),
            "value": np.random.default_rng(0).normal(size=steps * series),
        }
    )
    dataset = TimeSeriesDataSet(
        frame,
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=8,
        max_prediction_length=4,
        time_varying_unknown_reals=["value"],
        time_varying_known_reals=["time"],
        static_categoricals=["series"],
        target_normalizer=GroupNormalizer(groups=["series"]),
    )
    network = TemporalFusionTransformer.from_dataset(dataset, hidden_size=8, attention_head_size=2, dropout=0.0)
    return network, dataset.to_dataloader(train=False, batch_size=8, num_workers=0)


def _scvi() -> Built:
    from scvi.module import VAE

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        zeros = torch.zeros(len(x), 1)
        tensors = {"X": x, "batch": zeros, "labels": zeros}
        return net(tensors)[2].loss

    network = VAE(n_input=30, n_batch=1, n_hidden=16, n_latent=4)
    return Wrapped(network, loss), batches(lambda g: torch.poisson(torch.full((16, 30), 2.0), generator=g))


def _simclr() -> Built:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    network = nn.ModuleDict(
        {
            "backbone": nn.Sequential(
                nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 16)
            ),
            "head": SimCLRProjectionHead(16, 16, 8),
        }
    )
    criterion = NTXentLoss()

    def loss(net: nn.ModuleDict, batch: Any) -> Tensor:
        first, second = (net["head"](net["backbone"](view)) for view in (batch[0], batch[0].flip(3)))
        return criterion(first, second)

    return Wrapped(network, loss), _images()


def _diffusion() -> Built:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return (net(batch[0], torch.arange(4)).sample - batch[0]).square().mean()

    return Wrapped(network, loss), _images(16, 1)


def _spikingjelly() -> Built:
    from spikingjelly.activation_based import functional, layer, neuron

    network = nn.Sequential(
        layer.Conv2d(3, 8, 3, stride=2),
        layer.BatchNorm2d(8),
        neuron.LIFNode(),
        layer.Flatten(),
        layer.Linear(8 * 15 * 15, 16),
        neuron.LIFNode(),
        layer.Linear(16, 3),
    )
    functional.set_step_mode(network, "m")

    def loss(net: nn.Module, batch: Any) -> Tensor:
        functional.reset_net(net)
        return F.cross_entropy(net(batch[0].expand(4, *batch[0].shape)).mean(0), batch[1])

    return Wrapped(network, loss), _images()


def _snntorch() -> Built:
    import snntorch

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(8, 16), snntorch.Leaky(beta=0.9)
            self.fc2, self.lif2 = nn.Linear(16, 3), snntorch.Leaky(beta=0.9)

        def forward(self, x: Tensor) -> Tensor:
            first, second, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
            for _ in range(4):
                spikes, first = self.lif1(self.fc1(x), first)
                spikes, second = self.lif2(self.fc2(spikes), second)
                out.append(second)
            return torch.stack(out).mean(0)

    return Wrapped(Net(), _classify), batches(lambda g: (torch.randn(6, 8, generator=g), torch.arange(6) % 3))


class _GAN(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.discriminator = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0]
        for index, optimizer in enumerate(self.optimizers()):
            self.toggle_optimizer(optimizer)
            fake = self.generator(torch.randn(len(real), 4))
            score = self.discriminator(fake)
            loss = F.softplus(-score).mean() if index == 0 else F.softplus(score).mean()
            if index == 1:
                loss = loss + F.softplus(-self.discriminator(real)).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.generator, self.discriminator)]


def _gan() -> Built:
    return _GAN(), batches(lambda g: (torch.randn(6, 8, generator=g),))


class _DQN(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
        self.target = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
        self.target.load_state_dict(self.q.state_dict())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state, action, reward, following = batch
        with torch.no_grad():
            wanted = reward + 0.9 * self.target(following).amax(1)
        return F.smooth_l1_loss(self.q(state).gather(1, action[:, None])[:, 0], wanted)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            for new, old in zip(self.q.parameters(), self.target.parameters(), strict=True):
                old.lerp_(new, 0.1)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.q.parameters(), 1e-3)


def _dqn() -> Built:
    def make(g: torch.Generator) -> Any:
        draw = [torch.randn(8, 4, generator=g) for _ in range(2)]
        return draw[0], torch.randint(0, 2, (8,), generator=g), torch.randn(8, generator=g), draw[1]

    return _DQN(), batches(make)


def _recurrent(kind: str) -> Callable[[], Built]:
    def build() -> Built:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rnn = getattr(nn, kind)(8, 16, batch_first=True)
                self.hidden, self.out = nn.Linear(16, 16), nn.Linear(16, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.out(self.hidden(self.rnn(x)[0][:, -1]).relu())

        return Wrapped(Net(), _classify), batches(lambda g: (torch.randn(6, 5, 8, generator=g), torch.arange(6) % 3))

    return build


def _mixture() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(8, 3)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            share = self.router(x)[:, :2].softmax(1)  # the third expert is never used
            return sum(share[:, i, None] * self.experts[i](x) for i in range(2))

    return Wrapped(Net(), _classify), batches(lambda g: (torch.randn(6, 8, generator=g), torch.arange(6) % 3))


def _transformer() -> Built:
    network = nn.Sequential(
        nn.Linear(8, 16),
        nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(80, 3),
    )
    return Wrapped(network, _classify), batches(lambda g: (torch.randn(6, 5, 8, generator=g), torch.arange(6) % 3))


def _neuralforecast() -> Built:
    """Written against `pytorch_lightning`; the module alone, with a loss of ours."""
    import pytorch_lightning
    from neuralforecast.models.nhits import NHITS

    inner = NHITS(h=4, input_size=8, n_blocks=[1, 1, 1], mlp_units=[[16, 16]] * 3)

    class Foreign(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.ModuleList(inner.blocks)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            residual, forecast = batch.flip(-1), torch.zeros(len(batch), 4, 1)
            mask = torch.ones_like(residual)
            for block in self.network:
                backcast, block_forecast = block(insample_y=residual, futr_exog=None, hist_exog=None, stat_exog=None)
                residual = (residual - backcast) * mask
                forecast = forecast + block_forecast
            return forecast.square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    return Foreign(), batches(lambda g: torch.randn(6, 8, generator=g))


NETWORKS: dict[str, Callable[[], Built]] = {
    "timm resnet18": _timm("resnet18"),
    "timm vit (tiny)": _timm("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3),
    "timm convnext (atto)": _timm("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 16, 16)),
    "timm nf_resnet26": _timm("nf_resnet26"),
    "timm efficientnet_b0": _timm("efficientnet_b0"),
    "timm mixer_s32": _timm("mixer_s32_224", img_size=32),
    "transformers GPT-2": _language_model("GPT2", n_embd=16, n_layer=2, n_head=2, n_positions=16),
    "transformers Llama": _language_model(
        "Llama", hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    ),
    "transformers BERT": _language_model(
        "Bert", hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    ),
    "transformers Mixtral": _language_model(
        "Mixtral",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    ),
    "torch_geometric GCN": _graph("GCN"),
    "torch_geometric GAT": _graph("GAT"),
    "chemprop MPNN": _chemprop,
    "pytorch-forecasting TFT": _temporal_fusion_transformer,
    "scvi-tools VAE": _scvi,
    "lightly SimCLR": _simclr,
    "diffusers UNet2D": _diffusion,
    "SpikingJelly (multi-step)": _spikingjelly,
    "snnTorch Leaky": _snntorch,
    "neuralforecast NHITS": _neuralforecast,
    "GAN (manual, toggled)": _gan,
    "DQN with target": _dqn,
    "torch LSTM": _recurrent("LSTM"),
    "torch GRU": _recurrent("GRU"),
    "torch TransformerEncoderLayer": _transformer,
    "mixture, one expert unused": _mixture,
}
