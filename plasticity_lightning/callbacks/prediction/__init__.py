"""Callbacks on modules that predict: what gates their learning, and what they have learned."""
