"""What can be done about lost plasticity? Pure functions of weights, activations and optimiser states."""
