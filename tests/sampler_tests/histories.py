"""Histories for tests: numpy arrays in, a batch of one out."""

from __future__ import annotations

import numpy as np
import torch

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.space import Space


__all__ = ["generator", "history_of", "random_history"]


def history_of(
    space: Space,
    points: np.ndarray,
    losses: np.ndarray,
    ran: np.ndarray | None = None,
    parents: np.ndarray | None = None,
) -> History:
    """Return the history of one study; losses of trials that did not run are ignored."""
    n = len(points)
    ran = np.ones(n, bool) if ran is None else ran
    parents = np.full(n, -1) if parents is None else parents
    columns = (points, np.where(ran, losses, np.inf), ran, parents)
    return History(space.cube, *(torch.from_numpy(np.array(column))[None] for column in columns))


def random_history(space: Space, n: int, seed: int = 0, failures: float = 0.2) -> History:
    """Return n random points in a chain of edits, each the child of the one before."""
    rng = np.random.default_rng(seed)
    ran = rng.random(n) >= failures
    points = space.snap(rng.random((n, space.dim)))
    return history_of(space, points, rng.standard_normal(n), ran, np.arange(n) - 1)


def generator(seed: int) -> torch.Generator:
    """Return a generator with a seed."""
    return torch.Generator().manual_seed(seed)
