"""What can be done about lost plasticity? Pure functions of weights, activations and optimiser states.

The Callbacks over them are in `plasticity_lightning.callbacks`; the optimiser `UPGD` is used as it is.
"""

from plasticity_lightning.interventions.continual_backprop import UnitUtility
from plasticity_lightning.interventions.initialise import fresh_layer, select_layers
from plasticity_lightning.interventions.l2_init import add_anchor_gradient, pull_to_anchors
from plasticity_lightning.interventions.module_transform import CReLU, LayerNormed
from plasticity_lightning.interventions.optimizer_state import forget_moments
from plasticity_lightning.interventions.parseval import parseval_penalty
from plasticity_lightning.interventions.plasticity_injection import InjectableHead
from plasticity_lightning.interventions.redo import dormant_units
from plasticity_lightning.interventions.shrink_and_perturb import mix_in_fresh, shrink_and_add_noise
from plasticity_lightning.interventions.soft_reset import drift_factor
from plasticity_lightning.interventions.unit_graph import UnitTracer
from plasticity_lightning.interventions.unit_surgery import compensate_biases, recycle_incoming, silence_outgoing
from plasticity_lightning.interventions.upgd import UPGD

__all__ = [
    "UPGD",
    "CReLU",
    "InjectableHead",
    "LayerNormed",
    "UnitTracer",
    "UnitUtility",
    "add_anchor_gradient",
    "compensate_biases",
    "dormant_units",
    "drift_factor",
    "forget_moments",
    "fresh_layer",
    "mix_in_fresh",
    "parseval_penalty",
    "pull_to_anchors",
    "recycle_incoming",
    "select_layers",
    "shrink_and_add_noise",
    "silence_outgoing",
]
