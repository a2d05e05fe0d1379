"""Interventions against the loss of plasticity: one Callback a file, triggered by a schedule or by a measure."""
