"""DDP for modules that learn without gradients: plastic liquids, local rules, closed-form readouts.

Lightning's DDP refuses a module without trainable parameters. This one equalises parameters and buffers once and leaves the module unwrapped;
its rules reduce what they need by themselves. A module with gradients gets ordinary DDP.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

__all__ = ["LocalDDPStrategy"]


class LocalDDPStrategy(DDPStrategy):
    """DDPStrategy that accepts gradient-free modules; in a recipe: `strategy: local_ddp`, or by class path with DDPStrategy's arguments."""

    strategy_name = "local_ddp"

    def configure_ddp(self) -> None:
        """Wrap the module if it has gradients, else broadcast rank 0's state."""
        assert self.model is not None
        if any(p.requires_grad for p in self.model.parameters()):
            super().configure_ddp()
            return
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            torch.distributed.broadcast(tensor.data, 0)

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Make `strategy: local_ddp` known."""
        strategy_registry.register(cls.strategy_name, cls, description="DDP for gradient-free modules")


if LocalDDPStrategy.strategy_name not in StrategyRegistry:
    LocalDDPStrategy.register_strategies(StrategyRegistry)
