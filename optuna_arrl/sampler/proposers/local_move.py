"""Small edits of a good trial: a step in one to five of its slots."""

from __future__ import annotations

import torch

from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import Draws


__all__ = ["draw"]

_MAX_SLOTS = 5
_ONE_MORE = 0.45  # chance that one more slot moves: 1.8 slots in the mean
_SHORTEST, _LONGEST = 0.01, 0.5  # of a slot's range
_GAUSSIAN = 0.3  # how much of a step's length is random from slot to slot


def draw(draws: Draws) -> Draft:
    """Draw one to five slots of a parent and move each by a step of one random length.

    Numbers go either way (a step beyond an end turns round) and at least to the next level;
    choices change to another choice. Needs one trial that ran.
    """
    history, cube = draws.history, draws.history.cube
    parents = draws.parents()
    origin = history.at(parents)

    more = (draws.uniform(_MAX_SLOTS - 1) < _ONE_MORE).cumprod(2).sum(2)
    order = draws.uniform(cube.slots) + 2.0 * ~cube.movable[:, None]  # what cannot move: last
    moves = order.argsort(2).argsort(2) <= more[..., None]

    length = draws.log_uniform(_SHORTEST, _LONGEST)
    normal = draws.normal(cube.slots)
    step = length * (_GAUSSIAN * normal + (1.0 - _GAUSSIAN) * normal.sign())
    moved = origin + step
    moved = torch.where((moved < 0.0) | (moved > 1.0), origin - step, moved)
    stuck = (cube.snap(moved) - origin).abs() < 1e-7
    moved = torch.where(stuck, cube.neighbours(origin, step), moved)

    levels = cube.levels[:, None].clamp(min=2)
    jump = 1 + (draws.uniform(cube.slots) * (levels - 1)).floor()
    other = (origin + jump / levels) % 1.0
    moved = torch.where(cube.categorical[:, None], other, moved)
    return torch.where(moves, moved, origin), parents
