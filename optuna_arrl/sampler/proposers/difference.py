"""The way from middling to good trials, walked on from a good one."""

from __future__ import annotations

import torch

from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import Draws
from optuna_arrl.sampler.proposers._draft import PARENTS


__all__ = ["draw"]

_NEEDS = 3  # trials that ran


def draw(draws: Draws) -> Draft:
    """Add 0.2 to 1 times (good - middling) to a parent, in a random 30 to 100 % of the slots.

    Good is one of the best third and best four, middling anything from the first quartile down
    to the worst fifth. Of choices, half of those slots take the good trial's. None where fewer
    than three trials ran.
    """
    history, cube = draws.history, draws.history.cube
    n = history.number_ran
    parents = draws.parents()
    origin = history.at(parents)
    best = draws.ranks((n // 3).clamp(min=1, max=PARENTS))
    worse = draws.ranks((4 * n // 5).maximum(n // 4 + 1), n // 4)
    good = history.at(history.ranking.gather(1, best))
    middling = history.at(history.ranking.gather(1, worse.clamp(max=len(history) - 1)))

    takes_part = draws.uniform(cube.slots) < 0.3 + 0.7 * draws.uniform(1)
    moved = origin + (0.2 + 0.8 * draws.uniform(1)) * (good - middling)
    chosen = torch.where(draws.uniform(cube.slots) < 0.5, good, origin)
    moved = torch.where(cube.categorical[:, None], chosen, moved)
    enough = (n >= _NEEDS)[:, None]
    return torch.where(takes_part, moved, origin), torch.where(enough, parents, -1)
