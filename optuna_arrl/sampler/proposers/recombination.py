"""Children of two good trials: every slot from the one or the other."""

from __future__ import annotations

import torch

from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import Draws
from optuna_arrl.sampler.proposers._draft import PARENTS


__all__ = ["draw"]


def draw(draws: Draws) -> Draft:
    """Draw a parent and another good trial, then a fair coin for every slot.

    Needs one trial that ran; of one alone the children are copies of it.
    """
    history = draws.history
    parents = draws.parents()
    others = history.ranking.gather(1, draws.ranks(history.number_ran.clamp(min=1, max=PARENTS)))
    heads = draws.uniform(history.cube.slots) < 0.5
    return torch.where(heads, history.at(parents), history.at(others)), parents
