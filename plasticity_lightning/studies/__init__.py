"""Experiments over many runs or checkpoints, which the command starts."""
