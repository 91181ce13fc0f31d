"""A step that paid, taken once more: a good trial's own edit repeated on it."""

from __future__ import annotations

import torch

from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import Draws


__all__ = ["draw"]

_NEEDS = 3  # trials that ran
_SHORTEST, _LONGEST = 0.2, 2.0  # times the edit that made the parent
_JITTERED, _JITTER = 0.15, 0.1  # share of the slots that also move at random, and by how much


def draw(draws: Draws) -> Draft:
    """Repeat the edit that made a parent from its own parent, shortened or lengthened.

    Choices stay. None where the parent is no edit of another, or fewer than three trials ran.
    """
    history, cube = draws.history, draws.history.cube
    parents = draws.parents()
    origin = history.at(parents)
    before = history.parents.gather(1, parents)
    edit = origin - history.at(before.clamp(min=0))

    jittered = draws.uniform(cube.slots) < _JITTERED
    jitter = torch.where(jittered, _JITTER * draws.normal(cube.slots), 0.0)
    moved = origin + draws.log_uniform(_SHORTEST, _LONGEST) * edit + jitter
    has_edit = (before >= 0) & (history.number_ran >= _NEEDS)[:, None]
    points = torch.where(cube.categorical[:, None], origin, moved)
    return points, torch.where(has_edit, parents, -1)
