"""What every recipe needs and Lightning lacks."""

from plasticity_lightning.runtime.checkpoint import AtomicCheckpoint
from plasticity_lightning.runtime.clock import Clock
from plasticity_lightning.runtime.coverage import CoverageSummary, announce_coverage
from plasticity_lightning.runtime.divergence import DivergenceGuard
from plasticity_lightning.runtime.feature_store import FeatureStore
from plasticity_lightning.runtime.graceful_stop import GracefulStop
from plasticity_lightning.runtime.heap import keep_heap
from plasticity_lightning.runtime.loaders import ResumableDataLoader, SeededSampler
from plasticity_lightning.runtime.rng import RNGState
from plasticity_lightning.runtime.strategies import LocalDDPStrategy
from plasticity_lightning.runtime.ticks import TickLoader
from plasticity_lightning.runtime.trigger import Trigger
from plasticity_lightning.runtime.weight_gate import changing_weights, hold_invariant

__all__ = [
    "AtomicCheckpoint",
    "Clock",
    "CoverageSummary",
    "DivergenceGuard",
    "FeatureStore",
    "GracefulStop",
    "LocalDDPStrategy",
    "RNGState",
    "ResumableDataLoader",
    "SeededSampler",
    "TickLoader",
    "Trigger",
    "announce_coverage",
    "changing_weights",
    "hold_invariant",
    "keep_heap",
]
