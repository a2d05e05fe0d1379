"""Pixel environments, one contract; torch-free, so that they run in processes without it."""

from plasticity_lightning.control.environments.collector import Collector
from plasticity_lightning.control.environments.contract import (
    Actions,
    BrokenEnvironmentError,
    ContinuousActions,
    DiscreteActions,
    EnvironmentForm,
    PixelEnvironment,
    State,
    Step,
)
from plasticity_lightning.control.environments.frame_stack import FrameStack
from plasticity_lightning.control.environments.reach import ReachEnvironment
from plasticity_lightning.control.environments.registry import EnvironmentSpec, make_environment
from plasticity_lightning.control.environments.steps import Steps

__all__ = [
    "Actions",
    "BrokenEnvironmentError",
    "Collector",
    "ContinuousActions",
    "DiscreteActions",
    "EnvironmentForm",
    "EnvironmentSpec",
    "FrameStack",
    "PixelEnvironment",
    "ReachEnvironment",
    "State",
    "Step",
    "Steps",
    "make_environment",
]
