"""Draws from the whole space: what makes every legal edit possible, whatever the history says."""

from __future__ import annotations

import numpy as np

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers._draft import Draft


__all__ = ["draw", "walk_untried"]


def draw(history: History, rng: np.random.Generator, count: int) -> Draft:
    """Draw points uniformly: in a finite space every legal one with positive probability."""
    return rng.random((count, history.space.dim)), np.full(count, -1)


def walk_untried(history: History, rng: np.random.Generator, count: int) -> Draft:
    """Return 1 to `count` untried points of a finite space that has some, found by counting.

    Of any `n + 1` different points one is new to `n` trials, so a walk through the numbered
    points from a random start finds some at once where random draws would miss the last few.
    """
    space = history.space
    assert space.size is not None and not history.exhausted
    start = int.from_bytes(rng.bytes(16)) % space.size
    steps = min(space.size, len(history.tried) + count)
    # Python integers: the number of legal points may be beyond 64 bits.
    number = np.array([(start + i) % space.size for i in range(steps)], dtype=object)
    indices = np.empty((steps, space.dim))
    for j, levels in enumerate(space.levels.tolist()):
        indices[:, j] = number % levels
        number = number // levels
    points = space.at(indices)
    fresh = [key not in history.tried for key in space.keys(points)]
    points = points[fresh][:count]
    return points, np.full(len(points), -1)
