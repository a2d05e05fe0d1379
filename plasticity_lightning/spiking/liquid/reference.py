"""The dense reference engine: slow, obviously right, the oracle of the fast ones.

Written with the SpikingJelly nodes of `spiking.neurons` and `spiking.synapses` and the pure functions of `spiking.rules` and
`spiking.astrocyte`, in float64, with one dense private weight matrix [N, N + C] per sample. The numbered comments are the steps in the order of
the published code; the nodes charge first and fire second, so a node receives at step t the current of step t - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_lightning.spiking.astrocyte import Astrocyte, astrocyte_step
from plasticity_lightning.spiking.encoding import SpikeTrains
from plasticity_lightning.spiking.liquid.contract import (
    LiquidActivity,
    LiquidState,
    NeuronParameters,
    Weights,
    check_simulation,
)
from plasticity_lightning.spiking.liquid.topology import Liquid
from plasticity_lightning.spiking.neurons import RefractoryLIFNode
from plasticity_lightning.spiking.rules import (
    APSTDP,
    STDP,
    ap_gates,
    calcium_step,
    gated_change,
    stdp_terms,
    trace_step,
    weight_bounds,
)
from plasticity_lightning.spiking.synapses import SaturatingSynapse

__all__ = ["simulate_reference"]


@torch.no_grad()
def simulate_reference(
    liquid: Liquid,
    inputs: SpikeTrains,
    state: LiquidState,
    *,
    neuron: NeuronParameters,
    rule: STDP | None,
    astrocyte: Astrocyte | None,
    weights: Weights,
    rate_decay: float = 1.0,
    record: bool = False,
    threads: int | None = None,
) -> tuple[LiquidActivity, LiquidState]:
    """Simulate B samples; see `contract.Engine`. `threads` is left to torch here."""
    check_simulation(liquid, inputs, state, rule, astrocyte, weights, rate_decay)
    pulses = inputs.dense().double()  # [T, B, C]
    dense = torch.zeros(liquid.n_neurons, liquid.n_sources, dtype=torch.float64)
    row, column = liquid.target.long(), liquid.source.long()
    dense[row, column] = state.weight.double()
    trace = None if state.trace is None else state.trace.double()[None]
    calcium = None if state.calcium is None else state.calcium.double()[None]
    sequential = weights == "carried" or trace is not None or calcium is not None

    parts = []
    for part in pulses.split(1, dim=1) if sequential else (pulses,):
        part_activity, final, new_trace, new_calcium = _simulate_batch(
            liquid, part, dense, trace, calcium, neuron, rule, astrocyte, rate_decay
        )
        parts.append(part_activity)
        if weights == "carried":
            dense = final[0]
        trace = new_trace if trace is not None else None
        calcium = new_calcium if calcium is not None else None

    spikes, n_input, modulation = (torch.cat(columns) for columns in zip(*parts, strict=True))
    activity = LiquidActivity(
        counts=spikes.sum(1).int(),
        n_liquid=spikes.sum(2).int(),
        n_input=n_input.int(),
        modulation=modulation,
        spikes=spikes.to(torch.uint8) if record else None,
    )
    after = LiquidState(
        dense[row, column], None if trace is None else trace[0], None if calcium is None else calcium[0]
    )
    return activity, after


def _simulate_batch(
    liquid: Liquid,
    pulses: Tensor,
    weight: Tensor,
    trace: Tensor | None,
    calcium: Tensor | None,
    neuron: NeuronParameters,
    rule: STDP | None,
    astrocyte: Astrocyte | None,
    rate_decay: float,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor]:
    n_steps, n_samples, _ = pulses.shape
    n, n_sources = liquid.n_neurons, liquid.n_sources
    cells = RefractoryLIFNode(neuron.tau_mem, neuron.v_threshold, neuron.v_reset, neuron.refractory)
    synapses = SaturatingSynapse(neuron.tau_syn)
    exists = torch.zeros(n, n_sources, dtype=torch.bool)
    exists[liquid.target.long(), liquid.source.long()] = True
    source = torch.arange(n_sources)
    inhibitory = (source >= liquid.n_excitatory) & (source < n)
    stdp = rule or STDP()
    low, high = weight_bounds(n, liquid.n_excitatory, liquid.n_inputs, stdp.w_max)
    senses_liquid, senses_input = (m.double() for m in (astrocyte or Astrocyte()).sensed(n, liquid.n_inputs))

    weight = weight.expand(n_samples, n, n_sources).clone()
    trace = torch.zeros(n_samples, n_sources, dtype=torch.float64) if trace is None else trace
    calcium = torch.zeros(n_samples, n, dtype=torch.float64) if calcium is None else calcium
    drive = torch.zeros(n_samples, n_sources, dtype=torch.float64)
    lr, factor = stdp.lr, 1.0
    depression = torch.full((n_samples,), astrocyte.bias if astrocyte else lr, dtype=torch.float64)
    if rule is None:
        depression = torch.zeros(n_samples, dtype=torch.float64)

    spikes_seq, n_input_seq, depression_seq = [], [], []
    for t in range(n_steps):
        spikes = cells(drive)  # 1, 2 and 7: fire, reset, refractory counter (5 of the step before: charge)
        fired = spikes[:, :n]  # 3: what is counted
        c = synapses(spikes)  # 4 and 6: reset the clocks of the sources that fired; advance all clocks
        drive = torch.cat([torch.einsum("bns,bs->bn", weight, c), neuron.pulse * pulses[t]], dim=1)  # 5: current
        if rule is not None:
            # 8: STDP with the traces before this step's spikes
            at_target, at_source = stdp_terms(
                spikes[:, None, :],
                fired[:, :, None],
                trace[:, None, :],
                trace[:, :n, None],
                inhibitory,
                lr * factor,
                depression[:, None, None],
            )
            if isinstance(rule, APSTDP):
                calcium = calcium_step(calcium, fired, rule)
                up, down = (gate[:, :, None] for gate in ap_gates(calcium, rule))
                change = gated_change(at_target, at_source, up, down)
            else:
                change = at_target + at_source
            weight = torch.where(exists, torch.minimum(torch.maximum(weight + change, low), high), 0.0)
            trace = trace_step(trace, spikes, rule)  # 9
            if astrocyte is not None:  # 10
                depression = astrocyte_step(
                    depression,
                    (fired * senses_liquid).sum(1),
                    (spikes[:, n:] * senses_input).sum(1),
                    astrocyte.weight * factor,
                    astrocyte.bias * factor,
                    astrocyte.tau,
                )
        spikes_seq.append(fired)
        n_input_seq.append(spikes[:, n:].sum(1))
        depression_seq.append(depression)
        factor = factor * rate_decay  # 11
        depression = depression * rate_decay
    return (
        (torch.stack(spikes_seq, 1), torch.stack(n_input_seq, 1), torch.stack(depression_seq, 1)),
        weight,
        trace,
        calcium,
    )
