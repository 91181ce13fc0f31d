"""Draws from the whole space: what makes every legal edit possible, whatever the history says."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import Draws


__all__ = ["draw", "walk_untried"]


def draw(draws: Draws) -> Draft:
    """Draw points uniformly: in a finite space every legal one with positive probability."""
    points = draws.uniform(draws.history.cube.slots)
    return points, torch.full(points.shape[:2], -1, device=points.device)


def walk_untried(history: History, generator: torch.Generator, count: int) -> Tensor:
    """Return (m, D), 1 ≤ m ≤ `count`: untried points of one finite space that has some.

    Of any `n + 1` different points one is new to `n` trials, so a walk through the numbered
    points from a random start finds some at once where random draws would miss the last few.

    Args:
        history: Of a single study whose space is finite and not exhausted.
        generator: Where the walk starts.
        count: The most points.
    """
    (levels,) = history.cube.levels.tolist()
    size = 1
    for number in levels:
        size *= number
    digits = torch.randint(1 << 30, (4,), generator=generator, device=generator.device).tolist()
    start = sum(digit << (30 * i) for i, digit in enumerate(digits)) % size
    # Python integers: the number of legal points may be beyond 64 bits.
    number = np.array(
        [(start + i) % size for i in range(min(size, len(history) + count))], dtype=object
    )
    columns = []
    for slot_levels in levels:
        columns.append((number % slot_levels).astype(np.float64))
        number = number // slot_levels
    indices = torch.from_numpy(np.stack(columns, axis=1)).to(history.points)
    points = history.cube.at(indices[None])
    fresh = ~torch.isin(history.cube.keys(points)[0], history.tried[0])
    return points[0, fresh][:count]
