"""Callbacks for spiking liquids: the astrocyte's feedback, and what a liquid does."""
