"""Strangers' modules for the tests of PruneRegrowScheduler: a classifier, a DrQ-v2-like critic, a reservoir."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    def __init__(self, optimizer="sgd"):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 12),
            nn.ReLU(),
            nn.Linear(12, 3),
        )
        self.optimizer = optimizer

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        if self.optimizer == "adam":
            return torch.optim.AdamW(self.parameters(), 1e-2)
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)


def images(n=64, batch_size=8):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(n, 1, 6, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator))
    return DataLoader(data, batch_size=batch_size)


class ActorCritic(pl.LightningModule):
    """Two Adams by hand, a target network that follows the critic slowly, the actor every second batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.actor = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 1))
        self.critic_target = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 1)).requires_grad_(False)
        self.critic_target.load_state_dict(self.critic.state_dict())

    def training_step(self, batch, batch_idx):
        obs, action, reward, after = batch
        actor_optimizer, critic_optimizer = self.optimizers()
        with torch.no_grad():
            target = reward + 0.9 * self.critic_target(torch.cat([after, self.actor(after)], 1))
        critic_optimizer.zero_grad()
        self.manual_backward((self.critic(torch.cat([obs, action], 1)) - target).square().mean())
        critic_optimizer.step()
        if batch_idx % 2 == 0:
            actor_optimizer.zero_grad()
            self.manual_backward(-self.critic(torch.cat([obs, self.actor(obs)], 1)).mean())
            actor_optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.critic_target.parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(fast, 0.01)

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.actor, self.critic)]


def transitions(n=96, batch_size=4):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, size, generator=generator) for size in (5, 2, 1, 5)]
    return DataLoader(TensorDataset(*parts), batch_size=batch_size)


class Reservoir(pl.LightningModule):
    """Recurrent weights without autograd: a Hebbian rule writes p.grad, a plain SGD applies it."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.w_in = nn.Parameter(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), requires_grad=False)
        start = 0.1 * torch.randn(20, 20, generator=torch.Generator().manual_seed(2))
        self.recurrent = nn.Parameter(start, requires_grad=False)

    def training_step(self, batch, batch_idx):
        state = torch.zeros(len(batch), 20)
        correlation = torch.zeros(20, 20)
        for x in batch.unbind(1):
            new = torch.tanh(x @ self.w_in.T + state @ self.recurrent.T)
            correlation += new.T @ state / len(batch)
            state = new
        self.recurrent.grad = -(correlation - self.recurrent)
        self.optimizers().step()

    def configure_optimizers(self):
        return torch.optim.SGD([self.recurrent], 0.01)


def trainer(callbacks, path=None, **options):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 3,
        "default_root_dir": path,
    }
    return pl.Trainer(callbacks=callbacks, **{**defaults, **options})
