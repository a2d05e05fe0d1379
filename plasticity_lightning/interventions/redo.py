"""ReDo: recycle dormant neurons. A unit that hardly responds gets new incoming weights and no outgoing ones.

Every F steps the dormancy score s_i = E|a_i| / mean_k E|a_k| of each hidden unit is taken from a batch; the incoming
weights and bias of units with s_i <= tau are drawn anew from the initial distribution and their outgoing weights set
to 0 (`unit_surgery`). A unit that was exactly silent is replaced without changing the network's output. Source: Sokar et
al. 2023, algorithm 1.
"""

from __future__ import annotations

from torch import Tensor

from plasticity_lightning.measures.activity import dormant_scores

__all__ = ["dormant_units"]


def dormant_units(abs_sum: Tensor, tau: float) -> Tensor:
    """Which units are tau-dormant, bool [U], from the sums of |a| over a batch [U].

    In a layer of zeros all units are dormant; in a layer with a sum that is not finite, none is. Source: Sokar et al. 2023, definition 3.1.
    """
    return (dormant_scores(abs_sum) <= tau) & abs_sum.isfinite().all()
