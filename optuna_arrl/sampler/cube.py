"""A batch of search spaces as unit cubes: what candidates, surrogate and policy compute on.

One sampler has a batch of one; training has hundreds of random spaces side by side. Spaces of
different size are padded with slots that cannot move. B spaces, D slots, E feature columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields
from functools import cached_property
import math

import torch
from torch import Tensor


__all__ = ["SAME", "Cube"]

_ONE_HOT = math.sqrt(0.5)  # two different choices then lie at distance 1, as opposite bounds do
SAME = 1e-8  # unit values nearer than this are the same value
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: its powers spread well over 64 bits


@dataclass(frozen=True, eq=False)
class Cube:
    """B search spaces as unit cubes, one axis a slot.

    Of `k` choices, choice `i` lies at `(i + 1/2) / k`; levels of a grid lie the same way, those
    of an integer on a logarithmic scale where their logarithms are.

    Attributes:
        levels: (B, D) int64, number of legal values: 0 in a continuum, 1 where nothing can move
            (single-valued slots and padding).
        categorical: (B, D) bool.
        logarithmic: (B, D) bool, a number on a logarithmic scale.
        integer: (B, D) bool.
        low, start, end: (B, D), of integers on a logarithmic scale the lowest value and the
            logarithms at 0 and 1; any other numbers elsewhere. Their type is that of all points.
        family: (B, D) int64, the family of the slot's name, 0 for unknown.
        column_slot: (B, E) int64, the slot that a feature column belongs to.
        column_choice: (B, E) int64, the choice that it stands for, -1 for a number, -2 for
            padding.
    """

    levels: Tensor
    categorical: Tensor
    logarithmic: Tensor
    integer: Tensor
    low: Tensor
    start: Tensor
    end: Tensor
    family: Tensor
    column_slot: Tensor
    column_choice: Tensor

    @classmethod
    def of(
        cls,
        levels: Tensor,
        categorical: Tensor,
        logarithmic: Tensor,
        integer: Tensor,
        low: Tensor,
        start: Tensor,
        end: Tensor,
        family: Tensor,
    ) -> Cube:
        """Return a batch of spaces; the feature columns follow from the slots."""
        widths = torch.where(categorical, levels, 1) * (levels != 1)
        most = int(widths.sum(1).max()) if widths.numel() else 0
        column = torch.arange(most, device=levels.device).expand(len(levels), most).contiguous()
        ends = widths.cumsum(1)
        slot = torch.searchsorted(ends, column, right=True)
        padding = slot >= levels.shape[1]
        slot = slot.clamp(max=max(levels.shape[1] - 1, 0))
        choice = column - (ends - widths).gather(1, slot)
        choice = torch.where(categorical.gather(1, slot), choice, -1)
        return cls(
            levels,
            categorical,
            logarithmic,
            integer,
            low,
            start,
            end,
            family,
            slot,
            choice.masked_fill(padding, -2),
        )

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: Tensor) -> Cube:
        """Return the spaces `rows` of the batch."""
        return Cube(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def slots(self) -> int:
        """D, padding included."""
        return self.levels.shape[1]

    @cached_property
    def movable(self) -> Tensor:
        """(B, D) bool, False where only one value is legal."""
        return self.levels != 1

    @cached_property
    def numeric(self) -> Tensor:
        """(B, D) bool, slots that can move and are no choices."""
        return self.movable & ~self.categorical

    @cached_property
    def dim(self) -> Tensor:
        """(B,) number of slots that can move, as a float."""
        return self.movable.sum(1).to(self.start.dtype)

    @cached_property
    def size(self) -> Tensor:
        """(B,) float64, number of legal points; infinite when a slot is continuous."""
        levels = torch.where(self.levels > 0, self.levels.double(), math.inf)
        return levels.prod(1)

    @cached_property
    def _log_int(self) -> Tensor:
        return (self.logarithmic & self.integer & self.movable)[:, None]

    def indices(self, points: Tensor) -> Tensor:
        """Return level numbers (B, M, D) as floats (nan stays nan); junk in continuous slots."""
        levels = self.levels[:, None].to(points.dtype)
        last = (levels - 1).clamp(min=0)
        indices = (points * levels).floor().clamp(min=0).minimum(last)
        if not self._log_int.any():
            return indices
        start, end, low = self.start[:, None], self.end[:, None], self.low[:, None]
        axis = start + points.clamp(0.0, 1.0) * (end - start)
        values = torch.where(self._log_int, axis, 0.0).exp().round() - low
        return torch.where(self._log_int, values.clamp(min=0).minimum(last), indices)

    def at(self, indices: Tensor) -> Tensor:
        """Return unit values (B, M, D) of level numbers, meaningless in continuous slots."""
        equal = (indices + 0.5) / self.levels[:, None].clamp(min=1)
        if not self._log_int.any():
            return equal
        start, end, low = self.start[:, None], self.end[:, None], self.low[:, None]
        logs = torch.where(self._log_int, low + indices, 1.0).log()
        return torch.where(self._log_int, (logs - start) / (end - start), equal)

    def snap(self, points: Tensor) -> Tensor:
        """Return the legal points nearest to points (B, M, D); idempotent, nan stays nan."""
        free = (self.levels == 0)[:, None]
        return torch.where(free, points.clamp(0.0, 1.0), self.at(self.indices(points)))

    def neighbours(self, points: Tensor, direction: Tensor) -> Tensor:
        """Return, for slots with levels, the next level; at an end, the next one back.

        Args:
            points: (B, M, D) legal points.
            direction: (B, M, D), its sign says which way.

        Returns:
            (B, M, D) legal points; continuous and single-valued slots are left as they are.
        """
        levels = self.levels[:, None]
        indices = self.indices(points)
        step = torch.where(direction < 0, -1.0, 1.0)
        moved = indices + step
        moved = torch.where((moved < 0) | (moved >= levels), indices - step, moved)
        return torch.where(levels > 1, self.at(moved), points)

    def features(self, points: Tensor) -> Tensor:
        """Return legal points (B, M, D) as a surrogate sees them.

        Returns:
            (B, M, E): a movable slot's unit value, or for choices one column each, √½ in the
            chosen one; 0 in padding.
        """
        slot = self.column_slot[:, None].expand(-1, points.shape[1], -1)
        choice = self.column_choice[:, None]
        numbers = points.gather(2, slot) * (choice == -1)
        if not (self.column_choice >= 0).any():
            return numbers
        chosen = self.indices(points).gather(2, slot) == choice
        return numbers + _ONE_HOT * (chosen & (choice >= 0))

    def keys(self, points: Tensor) -> Tensor:
        """Return (B, M) int64 hashes; equal for points that decode to the same edit."""
        rounded = (points.double() / SAME).round().long()
        factors = [pow(_GOLDEN, 2 * d + 1, 1 << 64) for d in range(self.slots)]
        signed = [f - (1 << 64) if f >= 1 << 63 else f for f in factors]
        weights = torch.tensor(signed, dtype=torch.int64, device=points.device)
        return (rounded * weights).sum(2)  # modulo 2^64
