"""LightningDataModules of the recipes."""
