"""A step that paid, taken once more: a good trial's own edit repeated on it."""

from __future__ import annotations

import numpy as np

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import draw_parents
from optuna_arrl.sampler.proposers._draft import PARENTS


__all__ = ["draw"]

_SHORTEST, _LONGEST = 0.2, 2.0  # times the edit that made the parent
_JITTERED, _JITTER = 0.15, 0.1  # share of the slots that also move at random, and by how much


def draw(history: History, rng: np.random.Generator, count: int) -> Draft:
    """Repeat the edit that made a parent from its own parent, shortened or lengthened.

    Choices stay. Empty when no good trial is an edit of another.
    """
    space = history.space
    best = history.ranking[:PARENTS]
    pool = best[history.parents[best] >= 0]
    if not len(pool):
        return np.empty((0, space.dim)), np.empty(0, np.int64)
    parents = draw_parents(pool, rng, count)
    origin = history.points[parents]
    edit = origin - history.points[history.parents[parents]]

    factor = np.exp(rng.uniform(np.log(_SHORTEST), np.log(_LONGEST), (count, 1)))
    jittered = rng.random(origin.shape) < _JITTERED
    jitter = np.where(jittered, _JITTER * rng.standard_normal(origin.shape), 0.0)
    return np.where(space.is_categorical, origin, origin + factor * edit + jitter), parents
