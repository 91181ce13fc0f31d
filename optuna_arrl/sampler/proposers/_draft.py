"""What the families of proposers share: the form of their answer, random draws, parents."""

from __future__ import annotations

from dataclasses import dataclass
import math

import torch
from torch import Tensor

from optuna_arrl.sampler.history import History


__all__ = ["PARENTS", "Draft", "Draws"]

Draft = tuple[Tensor, Tensor]
"""Points (B, m, D), not yet legal, and the history index of each one's parent (B, m), -1 for
none: the study cannot give such a candidate yet."""

PARENTS = 4
"""The best so many trials are edited further."""

_DECAY = 0.3  # each rank is chosen exp(-0.3) times as often as the one above it


@dataclass(frozen=True)
class Draws:
    """Random numbers of the shapes that families need.

    Attributes:
        history: What is proposed from.
        generator: The only source of randomness.
        count: m, how many candidates a family draws.
    """

    history: History
    generator: torch.Generator
    count: int

    def uniform(self, *shape: int) -> Tensor:
        """Return (B, m, *shape) draws from [0, 1)."""
        like = self.history.points
        size = (len(like), self.count, *shape)
        return torch.rand(size, generator=self.generator, dtype=like.dtype, device=like.device)

    def normal(self, *shape: int) -> Tensor:
        """Return (B, m, *shape) standard normal draws."""
        like = self.history.points
        size = (len(like), self.count, *shape)
        return torch.randn(size, generator=self.generator, dtype=like.dtype, device=like.device)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """Return (B, m, 1) draws between `low` and `high`, uniform in the logarithm."""
        return (math.log(low) + self.uniform(1) * math.log(high / low)).exp()

    def ranks(self, end: Tensor, start: Tensor | int = 0) -> Tensor:
        """Return (B, m) whole numbers, uniform from `start` to `end` - 1; (B,) or (B, 1) each."""
        width = (end - start).clamp(min=1).reshape(-1, 1)
        first = start.reshape(-1, 1) if isinstance(start, Tensor) else start
        return first + (self.uniform() * width).floor().long().minimum(width - 1)

    def parents(self) -> Tensor:
        """Return (B, m) history indices of good trials, the better the likelier."""
        best = self.history.number_ran.clamp(min=1, max=PARENTS)[:, None].to(self.history.points)
        # Inverse of the distribution function of a geometric law cut off at `best`.
        rank = -(1.0 - self.uniform() * (1.0 - (-_DECAY * best).exp())).log() / _DECAY
        return self.history.ranking.gather(1, rank.floor().minimum(best - 1.0).long())
