"""Parts of the PruneRegrowScheduler: groups of weights by optimiser, scores, agreement of ranks, reports."""
