"""GraNet, GMP, RigL and SET written slowly from the specification: numpy, whole sorts, one weight at a time.

Independent of the package on purpose. Weights and gradients are dictionaries of arrays; masks are 0/1 arrays.
"""

from fractions import Fraction

import numpy as np


def target_sparsity(k, k0, k1, initial, final):
    """Zhu & Gupta's cubic in events: s_i + (s_f - s_i) (1 - (1 - x)^3)."""
    x = Fraction(k - k0, k1 - k0)
    initial, final = Fraction(str(initial)), Fraction(str(final))
    return initial + (final - initial) * (1 - (1 - x) ** 3)


def prune_global(weights, masks, sparsity):
    """Keep the floor(total * (1 - s)) weights of largest magnitude; equal ones: earlier layer, lower index first."""
    entries = []
    for order, name in enumerate(weights):
        for index, value in enumerate(weights[name].ravel()):
            if masks[name].ravel()[index]:
                entries.append((-abs(float(value)), order, index, name))
    total = sum(mask.size for mask in masks.values())
    n = int(Fraction(total) * (1 - Fraction(sparsity)))
    new = {name: np.zeros_like(mask) for name, mask in masks.items()}
    for _, _, index, name in sorted(entries)[:n]:
        new[name].ravel()[index] = 1
    return new


def drop_magnitude(weight, mask, rate):
    living = [i for i in range(mask.size) if mask.ravel()[i]]
    n_remove = -int(-(rate * len(living)) // 1)
    # the smallest go; of equal ones the higher index goes first
    going = sorted(living, key=lambda i: (abs(float(weight.ravel()[i])), -i))[:n_remove]
    new = mask.copy()
    for index in going:
        new.ravel()[index] = 0
    return new, len(going)


def drop_sign(weight, mask, rate):
    living = [i for i in range(mask.size) if mask.ravel()[i]]
    n_remove = -int(-(rate * len(living)) // 1)
    value = weight.ravel()
    negative = sorted((i for i in living if value[i] < 0), key=lambda i: (-float(value[i]), -i))
    positive = sorted((i for i in living if value[i] >= 0), key=lambda i: (float(value[i]), i))
    n_negative = n_remove * len(negative) // len(living)
    # kept positives are the largest, ties to the lower index: remove from the small end, higher index first
    positive = sorted(positive, key=lambda i: (float(value[i]), -i))
    new = mask.copy()
    for index in negative[:n_negative] + positive[: n_remove - n_negative]:
        new.ravel()[index] = 0
    return new, n_remove


def grow_by(mask, n, score):
    absent = [i for i in range(mask.size) if not mask.ravel()[i]]
    new = mask.copy()
    for index in sorted(absent, key=lambda i: (-abs(float(score.ravel()[i])), i))[:n]:
        new.ravel()[index] = 1
    return new


def regenerate(weight, mask, rate, score, drop=drop_magnitude):
    remaining, n = drop(weight * mask, mask, rate)
    return grow_by(remaining, n, score)


def srigl_step(weight, mask, gradient, n_exchanged, budget, gamma):
    """Lasby et al. 2024, section 3, steps 1 to 7, with loops over neurons; arrays [neurons, inputs]."""
    rows, inputs = mask.shape
    living = [(i, j) for i in range(rows) for j in range(inputs) if mask[i, j]]
    absent = [(i, j) for i in range(rows) for j in range(inputs) if not mask[i, j]]
    by_weight = sorted(living, key=lambda at: (-abs(float(weight[at])), at))
    salient = by_weight[: len(living) - n_exchanged]
    salient += sorted(absent, key=lambda at: (-abs(float(gradient[at])), at))[:n_exchanged]
    counts = [sum(at[0] == i for at in salient) for i in range(rows)]
    asked = max(1, int(gamma * (budget // rows) + 1e-9)) if budget // rows else 1
    active = [i for i in range(rows) if counts[i] >= asked]
    needed = max(1, -(-budget // inputs))
    if len(active) < needed:
        active = sorted(sorted(range(rows), key=lambda i: (-counts[i], i))[:needed])
    fan_in = min(inputs, max(1, budget // len(active)))
    kept = [at for at in by_weight if at[0] in active][: len(living) - n_exchanged]
    new = np.zeros_like(mask)
    for i in active:
        mine = [at for at in kept if at[0] == i][:fan_in]
        free = sorted(
            ((i, j) for j in range(inputs) if (i, j) not in mine), key=lambda at: (-abs(float(gradient[at])), at)
        )
        for at in mine + free[: fan_in - len(mine)]:
            new[at] = True
    return new
