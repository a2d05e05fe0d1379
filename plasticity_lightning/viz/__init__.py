"""Figures for TensorBoard and the docs: arrays in, matplotlib figures out."""
