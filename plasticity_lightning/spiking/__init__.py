"""Spiking mechanisms: neurons, synapses, plasticity rules, astrocyte, topology, encoding."""
