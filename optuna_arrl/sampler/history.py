"""What a proposal may know: the finished trials of a batch of studies, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields
from functools import cached_property
import math

import torch
from torch import Tensor

from optuna_arrl.sampler.cube import Cube


__all__ = ["History"]


@dataclass(frozen=True, eq=False)
class History:
    """Finished trials of B studies, n each, in the order of their numbers.

    Works empty, and with failures only.

    Attributes:
        cube: The search spaces that the points lie in.
        points: (B, n, D) legal points; slots that a trial did not have are imputed by whoever
            builds the history.
        losses: (B, n) float64, to be minimised: the score, negated when a study maximises; +inf
            where the trial did not run to a score. A pruned trial may enter with a forecast, no
            better than the best completed trial of that time: it must not become the incumbent.
        ran: (B, n) bool, False for crash, oom, timeout, invalid and rejected edits. Never True
            where the loss is not finite.
        parents: (B, n) int64, index *in this history* of the trial that was edited, or -1.
    """

    cube: Cube
    points: Tensor
    losses: Tensor
    ran: Tensor
    parents: Tensor

    def __post_init__(self) -> None:
        batch, n, slots = self.points.shape
        assert (batch, slots) == self.cube.levels.shape
        assert all(x.shape == (batch, n) for x in (self.losses, self.ran, self.parents))

    @classmethod
    def empty(cls, cube: Cube) -> History:
        """Return the history of studies that have no finished trial."""
        none = cube.levels.new_zeros(len(cube), 0)
        points = cube.start.new_zeros(len(cube), 0, cube.slots)
        return cls(cube, points, none.double(), none.bool(), none)

    def __len__(self) -> int:
        """Return n, the number of trials of each study."""
        return self.points.shape[1]

    def __getitem__(self, rows: Tensor) -> History:
        """Return the studies `rows` of the batch."""
        return History(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def append(self, points: Tensor, losses: Tensor, ran: Tensor, parents: Tensor) -> History:
        """Return the histories with one more trial each: points (B, D), the rest (B,)."""
        new = {"points": points, "losses": losses, "ran": ran, "parents": parents}
        longer = {k: torch.cat([getattr(self, k), v[:, None]], 1) for k, v in new.items()}
        return History(self.cube, **longer)

    def first(self, n: int) -> History:
        """Return the histories as they were after `n` trials."""
        parts = (self.points, self.losses, self.ran, self.parents)
        return History(self.cube, *(part[:, :n] for part in parts))

    @cached_property
    def ranking(self) -> Tensor:
        """(B, n) indices, best first; of equals the earlier; the trials that did not run last."""
        losses = torch.where(self.ran, self.losses, math.inf)
        # A pruned trial's loss may be the largest float there is, but is never infinite.
        return losses.argsort(dim=1, stable=True)

    @cached_property
    def ranks(self) -> Tensor:
        """(B, n) int64, the inverse of :attr:`ranking`: 0 for the incumbent."""
        order = torch.arange(len(self), device=self.points.device).expand_as(self.ranking)
        return torch.zeros_like(self.ranking).scatter(1, self.ranking, order)

    @cached_property
    def number_ran(self) -> Tensor:
        """(B,) int64, number of trials that ran."""
        return self.ran.sum(1)

    @cached_property
    def tried(self) -> Tensor:
        """(B, n) int64, sorted keys (:meth:`Cube.keys`) of all points, failures included."""
        return self.cube.keys(self.points).sort(dim=1).values

    @cached_property
    def exhausted(self) -> Tensor:
        """(B,) bool, whether every legal point has been tried."""
        if not len(self):
            return torch.zeros(len(self.cube), dtype=torch.bool, device=self.points.device)
        different = 1 + (self.tried.diff(dim=1) != 0).sum(1)
        return different >= self.cube.size

    def at(self, rows: Tensor) -> Tensor:
        """Return the points (B, m, D) of history indices (B, m)."""
        return self.points.gather(1, rows[..., None].expand(-1, -1, self.points.shape[2]))
