"""Networks that the recipes train: plain torch modules, no Lightning."""
