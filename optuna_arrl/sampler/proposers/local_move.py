"""Small edits of a good trial: a step in one to five of its slots."""

from __future__ import annotations

import numpy as np

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import draw_parents


__all__ = ["draw"]

_MAX_SLOTS = 5
_ONE_MORE = 0.25  # chance that one more slot moves: 1.3 slots in the mean
_SHORTEST, _LONGEST = 0.01, 0.25  # of a slot's range
_GAUSSIAN = 0.3  # how much of a step's length is random from slot to slot


def draw(history: History, rng: np.random.Generator, count: int) -> Draft:
    """Draw one to five slots of a parent and move each by a step of one random length.

    Numbers go either way (a step beyond an end turns round) and at least to the next level;
    choices change to another choice. Needs one trial that ran.
    """
    space = history.space
    parents = draw_parents(history.ranking, rng, count)
    origin = history.points[parents]

    slots = np.minimum(rng.geometric(1.0 - _ONE_MORE, count), _MAX_SLOTS)
    order = rng.random((count, space.dim)) + 2.0 * ~space.movable  # those that cannot move: last
    moves = order.argsort(axis=1).argsort(axis=1) < slots[:, None]

    length = np.exp(rng.uniform(np.log(_SHORTEST), np.log(_LONGEST), (count, 1)))
    normal = rng.standard_normal((count, space.dim))
    step = length * (_GAUSSIAN * normal + (1.0 - _GAUSSIAN) * np.sign(normal))
    moved = origin + step
    moved = np.where((moved < 0.0) | (moved > 1.0), origin - step, moved)
    stuck = np.abs(space.snap(moved) - origin) < 1e-9
    moved = np.where(stuck, space.neighbours(origin, step), moved)

    levels = np.maximum(space.levels, 2)
    other = (origin + (1 + np.floor(rng.random(moved.shape) * (levels - 1))) / levels) % 1.0
    moved = np.where(space.is_categorical, other, moved)
    return np.where(moves, moved, origin), parents
