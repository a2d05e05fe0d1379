"""A callback for runs over two processes: at the end weights, updates and ratio agree, environments do not."""

from typing import Any

import lightning.pytorch as pl
import torch

__all__ = ["RanksAgree"]


class RanksAgree(pl.Callback):
    """Raises at the end of training unless all ranks learnt the same from data of their own."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Compare."""
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        rewards = float(pl_module._replay._ring.reward.sum())
        own = torch.tensor([pl_module.updates, pl_module.replay_ratio, rewards], dtype=torch.float64)
        for mine in (weights, own):
            others = [torch.zeros_like(mine) for _ in range(trainer.world_size)]
            torch.distributed.all_gather(others, mine)
            if mine is weights:
                assert torch.equal(others[0], others[1]), "weights differ"
            else:
                assert torch.equal(others[0][:2], others[1][:2]), f"updates or ratio differ: {others}"
                assert others[0][2] != others[1][2], "the ranks see the same environments"
