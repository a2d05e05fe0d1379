"""Callbacks for modules that act: the adaptive replay ratio, the end of a run by frames, videos of evaluations."""

from plasticity_lightning.callbacks.control.adaptive_replay_ratio import AdaptiveReplayRatio
from plasticity_lightning.callbacks.control.evaluation_video import EvaluationVideo
from plasticity_lightning.callbacks.control.stop_after import StopAfter

__all__ = ["AdaptiveReplayRatio", "EvaluationVideo", "StopAfter"]
