"""Children of two good trials: every slot from the one or the other."""

from __future__ import annotations

import numpy as np

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import draw_parents
from optuna_arrl.sampler.proposers._draft import PARENTS


__all__ = ["draw"]


def draw(history: History, rng: np.random.Generator, count: int) -> Draft:
    """Draw a parent and another good trial, then a fair coin for every slot.

    Needs one trial that ran; of one alone the children are copies of it.
    """
    parents = draw_parents(history.ranking, rng, count)
    others = rng.choice(history.ranking[:PARENTS], count)
    heads = rng.random((count, history.space.dim)) < 0.5
    return np.where(heads, history.points[parents], history.points[others]), parents
