"""DDP for modules without gradients, registered as `local_ddp`.

Lightning's DDP refuses a module with no parameter that requires a gradient, as local learning rules have. This
strategy equalises parameters and buffers once from rank 0 and leaves the averaging of updates to the rule
(`trainer.strategy.reduce`); a module with gradients gets the ordinary DDP wrapper.
"""

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

__all__ = ["LocalDDPStrategy"]


class LocalDDPStrategy(DDPStrategy):
    """DDP that accepts modules without trainable parameters; arguments as `DDPStrategy`."""

    strategy_name = "local_ddp"

    def configure_ddp(self) -> None:
        """Wrap a module with gradients; equalise one without over all ranks."""
        assert self.model is not None
        if any(p.requires_grad for p in self.model.parameters()):
            super().configure_ddp()
            return
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            torch.distributed.broadcast(tensor.data, 0)

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Register as `local_ddp`."""
        strategy_registry.register(cls.strategy_name, cls, description="DDP that accepts gradient-free modules")


if LocalDDPStrategy.strategy_name not in StrategyRegistry.available_strategies():
    LocalDDPStrategy.register_strategies(StrategyRegistry)
