"""Visual control: environments, frame replay, losses and targets of agents; import the parts by their own names.

This file imports nothing, so that environment processes start without torch.
"""
