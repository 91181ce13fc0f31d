"""The way from middling to good trials, walked on from a good one."""

from __future__ import annotations

import numpy as np

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import draw_parents
from optuna_arrl.sampler.proposers._draft import PARENTS


__all__ = ["draw"]


def draw(history: History, rng: np.random.Generator, count: int) -> Draft:
    """Add 0.2 to 1 times (good - middling) to a parent, in a random 30 to 100 % of the slots.

    Good is one of the best third and best four, middling anything from the first quartile down
    to the worst fifth. Of choices, half of those slots take the good trial's. Needs three trials
    that ran.
    """
    space, ranking = history.space, history.ranking
    n = len(ranking)
    parents = draw_parents(ranking, rng, count)
    origin = history.points[parents]
    good = history.points[ranking[rng.integers(min(max(n // 3, 1), PARENTS), size=count)]]
    middling = history.points[ranking[rng.integers(n // 4, max(4 * n // 5, n // 4 + 1), count)]]

    takes_part = rng.random(origin.shape) < rng.uniform(0.3, 1.0, (count, 1))
    moved = origin + rng.uniform(0.2, 1.0, (count, 1)) * (good - middling)
    chosen = np.where(rng.random(origin.shape) < 0.5, good, origin)
    moved = np.where(space.is_categorical, chosen, moved)
    return np.where(takes_part, moved, origin), parents
