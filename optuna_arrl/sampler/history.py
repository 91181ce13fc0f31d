"""What a proposal may know: the finished trials of a study, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optuna_arrl.sampler.space import Array
from optuna_arrl.sampler.space import Space


__all__ = ["History"]


@dataclass(frozen=True, eq=False)
class History:
    """Finished trials, in the order of their numbers. Works empty, and with failures only.

    Args:
        space: The search space that the points lie in.
        numbers: (n,) int, trial numbers, ascending.
        points: (n, D) legal points; slots that a trial did not have are imputed by whoever
            builds the history.
        losses: (n,) float64, to be minimised: the score, negated when a study maximises; +inf
            where the trial did not run to a score. A pruned trial may enter with a forecast, no
            better than the best completed trial of that time: it must not become the incumbent.
        ran: (n,) bool, False for crash, oom, timeout, invalid and rejected edits. Never True
            where the loss is not finite.
        parents: (n,) int, index *in this history* of the trial that was edited, or -1.
        kinds: (n,) int, index into `proposers.KINDS`, or -1 when a person or another sampler
            chose.
    """

    space: Space
    numbers: NDArray[np.int64]
    points: Array
    losses: Array
    ran: NDArray[np.bool_]
    parents: NDArray[np.int64]
    kinds: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.numbers)
        assert self.points.shape == (n, self.space.dim) and np.isfinite(self.points).all()
        assert all(len(a) == n for a in (self.losses, self.ran, self.parents, self.kinds))
        assert np.isfinite(self.losses[self.ran]).all(), "a trial that ran has a finite loss"

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def ranking(self) -> NDArray[np.int64]:
        """Indices of the trials that ran, best first; of equals the earlier."""
        ran = np.flatnonzero(self.ran)
        return ran[np.argsort(self.losses[ran], kind="stable")]

    @property
    def incumbent(self) -> int | None:
        """Index of the best trial that ran, or :obj:`None`."""
        return int(self.ranking[0]) if len(self.ranking) else None

    @cached_property
    def tried(self) -> frozenset[bytes]:
        """Keys (:meth:`Space.keys`) of every point in the history, failures included."""
        return frozenset(self.space.keys(self.points))

    @property
    def exhausted(self) -> bool:
        """Whether every legal point has been tried."""
        return self.space.size is not None and len(self.tried) >= self.space.size
