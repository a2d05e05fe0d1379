"""The figure of pruning plasticity: what is lost for good when a network is pruned at different times of training.

Arrays in, a `matplotlib.figure.Figure` out that belongs to no window and no global state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

__all__ = ["pruning_plasticity"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def pruning_plasticity(
    epoch: Sequence[int],
    learning_rate: Sequence[float],
    rate: Sequence[float],
    share: Sequence[str],
    regenerate: Sequence[bool],
    plasticity: Sequence[float],
    metric: str = "accuracy",
) -> Figure:
    """Plasticity against the pruning rate: a panel per share, a colour per checkpoint, dashed without regeneration.

    Args:
        epoch: of the checkpoint, one entry per measurement, as all arguments but the last.
        learning_rate: when training went on.
        rate: pruned share of the weights, in [0, 1).
        share: `"uniform"` or `"global"`.
        regenerate: whether connections were regenerated.
        plasticity: metric after continuing minus that of the unpruned network.
        metric: name on the axis.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no measurement or the lengths differ.
    """
    columns = {
        "epoch": np.asarray(epoch),
        "learning_rate": np.asarray(learning_rate),
        "rate": np.asarray(rate, dtype=float),
        "share": np.asarray(share),
        "regenerate": np.asarray(regenerate, dtype=bool),
        "plasticity": np.asarray(plasticity, dtype=float),
    }
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or not len(columns["rate"]):
        raise ValueError(f"all sequences must have one length, at least 1; got {lengths}")
    shares, epochs = sorted(set(columns["share"].tolist())), sorted(set(columns["epoch"].tolist()))
    figure = Figure(figsize=(1.0 + 5.0 * len(shares), 4.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(shares), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, shares, strict=True):
        axes.axhline(0.0, color="0.6", linewidth=1.0)
        for index, at in enumerate(epochs):
            for regenerated in (False, True):
                chosen = (columns["share"] == name) & (columns["epoch"] == at) & (columns["regenerate"] == regenerated)
                if not chosen.any():
                    continue
                order = np.argsort(columns["rate"][chosen])
                label = f"epoch {at}, lr {columns['learning_rate'][chosen][0]:.3g}"
                axes.plot(
                    100 * columns["rate"][chosen][order],
                    columns["plasticity"][chosen][order],
                    color=_COLOURS[index % len(_COLOURS)],
                    linestyle="-" if regenerated else "--",
                    marker="o",
                    markersize=4,
                    label=f"{label}, regenerated" if regenerated else label,
                )
        axes.set(title=f"{name} pruning", xlabel="pruned weights (%)")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{metric} minus that of the unpruned network")
    panels[-1].legend(frameon=False, fontsize=8)
    return figure
