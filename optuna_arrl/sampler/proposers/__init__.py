"""Candidate edits: every family of proposers contributes, what was tried before is left out.

A family is a module with one function `draw(history, rng, count)`; adding one is a file and a
line in `_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import hashlib

import numpy as np
from numpy.typing import NDArray

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers import difference
from optuna_arrl.sampler.proposers import global_draw
from optuna_arrl.sampler.proposers import local_move
from optuna_arrl.sampler.proposers import momentum
from optuna_arrl.sampler.proposers import recombination
from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.space import Array


__all__ = ["GENERATOR_VERSION", "KINDS", "Candidates", "propose"]

GENERATOR_VERSION = 2
"""Raised when the same history and seed give other candidates than before."""


@dataclass(frozen=True)
class _Family:
    name: str
    draw: Callable[[History, np.random.Generator, int], Draft]
    share: float  # of the candidates that edit a trial
    needs: int  # trials that ran


# Shares chosen on synthetic tasks only; what a family cannot give yet, local moves give.
_FAMILIES = (
    _Family("global_draw", global_draw.draw, share=0.0, needs=0),
    _Family("local_move", local_move.draw, share=0.45, needs=1),
    _Family("recombination", recombination.draw, share=0.15, needs=3),
    _Family("difference", difference.draw, share=0.20, needs=3),
    _Family("momentum", momentum.draw, share=0.20, needs=3),
)
_GLOBAL, _LOCAL = 0, 1

KINDS: tuple[str, ...] = tuple(family.name for family in _FAMILIES)
"""Names of the families; `Candidates.kinds` and `History.kinds` index them."""

_GLOBAL_SHARE = 1 / 16  # never fewer draws from the whole space: the exploration guarantee
_ROUNDS = 4  # of drawing again what was a repeat


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidate edits, all different.

    Attributes:
        points: (C, D) legal points.
        parents: (C,) int, index into the history of the trial that is edited, or -1.
        kinds: (C,) int, index into :data:`KINDS`.
        step: (C,) the largest move of a number, in unit values; 0 where only choices change, 1
            where there is no parent.
        changed: (C,) int, number of slots that differ from the parent; where there is none, of
            all that can move.
    """

    points: Array
    parents: NDArray[np.int64]
    kinds: NDArray[np.int64]
    step: Array
    changed: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)

    def digest(self) -> str:
        """Return 16 hexadecimal digits that name the points, in their order.

        Unit values are rounded to 1e-6, so that another machine's last bit makes no difference.
        """
        rounded = np.rint(self.points * 1e6).astype("<i8")
        return hashlib.sha256(repr(rounded.shape).encode() + rounded.tobytes()).hexdigest()[:16]


def propose(history: History, rng: np.random.Generator, count: int = 256) -> Candidates:
    """Return up to `count` different candidates, a pure function of the arguments.

    Points tried before are left out while any legal point is untried; then repeats are allowed.
    Never empty. In a finite space every untried point is among the candidates with positive
    probability, in a continuous one every region of positive volume.

    Args:
        history: The finished trials that may be known.
        rng: The only source of randomness.
        count: The most candidates, at least 1; fewer where the space is small.
    """
    space = history.space
    taken = set() if history.exhausted else set(history.tried)
    kept: list[tuple[Array, int, int]] = []

    def keep(draft: Draft, kind: int) -> None:
        points = space.snap(draft[0])
        for key, point, parent in zip(space.keys(points), points, draft[1], strict=True):
            if key not in taken and len(kept) < count:
                taken.add(key)
                kept.append((point, int(parent), kind))

    for _ in range(_ROUNDS):
        for kind, number in enumerate(_split(history, count - len(kept))):
            if number == 0:
                continue
            draft = _FAMILIES[kind].draw(history, rng, number)
            keep(draft, kind)
            if len(draft[0]) < number:
                keep(local_move.draw(history, rng, number - len(draft[0])), _LOCAL)
        if len(kept) == count:
            break
    if not kept:
        keep(global_draw.walk_untried(history, rng, count), _GLOBAL)
    return _describe(history, kept)


def _split(history: History, count: int) -> list[int]:
    """Return how many candidates each family draws, `count` in all."""
    ran = len(history.ranking)
    numbers = [
        round(count * (1 - _GLOBAL_SHARE) * f.share) if ran >= f.needs else 0 for f in _FAMILIES
    ]
    numbers[_GLOBAL] = min(max(round(_GLOBAL_SHARE * count), 1), count) if ran else count
    numbers[_LOCAL] += count - sum(numbers)
    return numbers


def _describe(history: History, kept: list[tuple[Array, int, int]]) -> Candidates:
    points = np.stack([point for point, _, _ in kept])
    parents = np.array([parent for _, parent, _ in kept], np.int64)
    kinds = np.array([kind for _, _, kind in kept], np.int64)
    step = np.ones(len(kept))
    changed = np.full(len(kept), history.space.movable.sum(), np.int64)
    edits = parents >= 0
    moves = np.abs(points[edits] - history.points[parents[edits]])
    moves[moves < 1e-8] = 0.0
    changed[edits] = (moves > 0.0).sum(axis=1)
    step[edits] = moves[:, ~history.space.is_categorical].max(axis=1, initial=0.0)
    return Candidates(points, parents, kinds, step, changed)
