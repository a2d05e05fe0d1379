"""Simulation engines of one signature: a readable reference and fast back ends."""
