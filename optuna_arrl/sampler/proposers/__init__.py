"""Candidate edits: every family of proposers contributes, what was tried before is left out.

A family is a module with one function `draw(draws)`; adding one is a file and a line in
`_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields
from dataclasses import replace
import hashlib

import torch
from torch import Tensor

from optuna_arrl.sampler.history import History
from optuna_arrl.sampler.proposers import difference
from optuna_arrl.sampler.proposers import global_draw
from optuna_arrl.sampler.proposers import local_move
from optuna_arrl.sampler.proposers import momentum
from optuna_arrl.sampler.proposers import recombination
from optuna_arrl.sampler.proposers._draft import Draft
from optuna_arrl.sampler.proposers._draft import Draws


__all__ = ["GENERATOR_VERSION", "KINDS", "Candidates", "propose"]

GENERATOR_VERSION = 3
"""Raised when the same history and seed give other candidates than before."""


@dataclass(frozen=True)
class _Family:
    name: str
    draw: Callable[[Draws], Draft]
    share: float  # of the candidates


_GLOBAL_SHARE = 1 / 16  # never fewer draws from the whole space: the exploration guarantee

# Shares chosen on synthetic tasks only. What another family cannot give yet, local moves give,
# and while no trial ran, draws from the whole space.
_FAMILIES = (
    _Family("global_draw", global_draw.draw, share=_GLOBAL_SHARE),
    _Family("local_move", local_move.draw, share=0.45 * (1 - _GLOBAL_SHARE)),
    _Family("recombination", recombination.draw, share=0.15 * (1 - _GLOBAL_SHARE)),
    _Family("difference", difference.draw, share=0.20 * (1 - _GLOBAL_SHARE)),
    _Family("momentum", momentum.draw, share=0.20 * (1 - _GLOBAL_SHARE)),
)
_GLOBAL, _LOCAL = 0, 1

KINDS: tuple[str, ...] = tuple(family.name for family in _FAMILIES)
"""Names of the families; `Candidates.kinds` indexes them."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """C candidate edits of each of B studies.

    Attributes:
        points: (B, C, D) legal points.
        parents: (B, C) int64, index into the history of the trial that is edited, or -1.
        kinds: (B, C) int64, index into :data:`KINDS`.
        legal: (B, C) bool, at least one True a study: False for repeats of an earlier candidate
            or of a trial (unless everything was tried), which must not be chosen.
    """

    points: Tensor
    parents: Tensor
    kinds: Tensor
    legal: Tensor

    def __len__(self) -> int:
        """Return C."""
        return self.points.shape[1]

    def __getitem__(self, rows: Tensor) -> Candidates:
        """Return the candidates of the studies `rows`."""
        return Candidates(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def digest(self) -> str:
        """Return 16 hexadecimal digits that name the points, in their order.

        Unit values are rounded to 1e-6, so that another machine's last bit makes no difference.
        """
        rounded = (self.points.double() * 1e6).round().long()
        masked = torch.where(self.legal[..., None], rounded, -1).cpu().numpy().astype("<i8")
        return hashlib.sha256(repr(masked.shape).encode() + masked.tobytes()).hexdigest()[:16]


def propose(
    history: History,
    generator: torch.Generator,
    count: int = 256,
    *,
    running: Tensor | None = None,
) -> Candidates:
    """Return `count` candidates a study, a pure function of the arguments.

    Points tried before are not legal while any other point is; then repeats are allowed. In a
    finite space every point that is neither tried nor running is a legal candidate with positive
    probability, in a continuous one every region of positive volume.

    Args:
        history: The finished trials that may be known.
        generator: The only source of randomness.
        count: Candidates a study, at least 1; in small spaces few of them are legal.
        running: (B, r, D) points of trials under way, legal only where nothing else is.
    """
    numbers = [round(count * family.share) for family in _FAMILIES]
    numbers[_GLOBAL] = min(max(numbers[_GLOBAL], 1), count)
    numbers[_LOCAL] = max(count - sum(numbers) + numbers[_LOCAL], 0)
    drawn: list[tuple[Tensor, Tensor, Tensor]] = []
    for kind, number in enumerate(numbers):
        number = min(number, count - sum(numbers[:kind]))  # of very few candidates
        if number <= 0:
            continue
        drawn.append(_draw(history, generator, kind, number))
    points, parents, kinds = (torch.cat(parts, 1) for parts in zip(*drawn, strict=True))
    points = history.cube.snap(points)
    candidates = Candidates(points, parents, kinds, _legal(history, points))
    for row in (~candidates.legal.any(1)).nonzero()[:, 0]:
        untried = global_draw.walk_untried(history[row[None]], generator, count)
        candidates.points[row, : len(untried)] = untried
        candidates.parents[row] = -1
        candidates.kinds[row] = _GLOBAL
        candidates.legal[row, : len(untried)] = True
    if running is None:
        return candidates
    keys, theirs = (history.cube.keys(points) for points in (candidates.points, running))
    others = candidates.legal & ~(keys[:, :, None] == theirs[:, None]).any(2)
    legal = torch.where(others.any(1, keepdim=True), others, candidates.legal)
    return replace(candidates, legal=legal)


def _draw(
    history: History, generator: torch.Generator, kind: int, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return points, parents and kinds of a family's share, with what stands in for it."""
    draws = Draws(history, generator, number)
    points, parents = global_draw.draw(draws)
    kinds = torch.full_like(parents, _GLOBAL)
    if kind == _GLOBAL or not len(history):
        return points, parents, kinds
    drafts = [(kind, _FAMILIES[kind].draw(draws))]
    if kind != _LOCAL and (drafts[0][1][1] < 0).any():
        drafts.insert(0, (_LOCAL, local_move.draw(draws)))
    ran = (history.number_ran > 0)[:, None]
    for drafted, (moved, edited) in drafts:
        here = ran & (edited >= 0)
        points = torch.where(here[..., None], moved, points)
        parents = torch.where(here, edited, parents)
        kinds = torch.where(here, drafted, kinds)
    return points, parents, kinds


def _legal(history: History, points: Tensor) -> Tensor:
    """Return (B, C) bool: new to the history (unless it is exhausted), and the first of its kind.

    A point that occurs twice is legal where it occurs first.
    """
    keys = history.cube.keys(points)
    ordered, order = keys.sort(dim=1, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered.diff(dim=1) != 0
    legal = torch.zeros_like(first).scatter(1, order, first)
    if not len(history):
        return legal
    place = torch.searchsorted(history.tried, keys).clamp(max=len(history) - 1)
    tried = history.tried.gather(1, place) == keys
    return legal & (~tried | history.exhausted[:, None])
