"""The papers: one LightningModule a file."""
