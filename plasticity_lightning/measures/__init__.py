"""How plastic is a network? Pure functions of tensors, and torchmetrics over them."""
