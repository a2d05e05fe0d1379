"""Shared behaviour: one Callback a file, each useful on a stranger's LightningModule."""
