"""What the families of proposers share: the form of their answer and the choice of parents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optuna_arrl.sampler.space import Array


__all__ = ["PARENTS", "Draft", "draw_parents"]

Draft = tuple[Array, NDArray[np.int64]]
"""Points (m, D), not yet legal, and the history index of each one's parent (m,), -1 for none."""

PARENTS = 4
"""The best so many trials are edited further."""

_DECAY = 0.3  # each rank is chosen exp(-0.3) times as often as the one above it


def draw_parents(
    pool: NDArray[np.int64], rng: np.random.Generator, count: int
) -> NDArray[np.int64]:
    """Draw trials to edit, the better the likelier.

    Args:
        pool: (m,) history indices, best first, m ≥ 1; only the first :data:`PARENTS` are drawn.
        rng: Source of randomness.
        count: How many to draw.
    """
    weights = np.exp(-_DECAY * np.arange(min(len(pool), PARENTS)))
    return pool[rng.choice(len(weights), size=count, p=weights / weights.sum())]
