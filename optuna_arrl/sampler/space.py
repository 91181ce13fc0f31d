"""An Optuna search space as a unit cube: where candidates are moved and compared."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from functools import cached_property
import hashlib
import math
from typing import Any
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import distribution_to_json
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution

from optuna_arrl.sampler.families import name_family


if TYPE_CHECKING:
    from optuna_arrl.sampler.cube import Cube


__all__ = ["Space"]

Array = NDArray[np.float64]

_RESOLUTION = 1e-9  # of a slot's range; what is finer is rounding error and not written to code
_MISSING = object()  # no choice and no number
# A grid with more levels than a float can count is taken for a continuum.
_MAX_LEVELS = 1 << 53


class Space:
    """A search space as the unit cube, one axis a slot, sorted by name.

    Numbers go through the transform of Optuna's own samplers (logarithm where asked, half a step
    of room beyond the ends of a grid), so that a uniform point decodes to what `RandomSampler`
    draws. Of `k` choices, choice `i` lies at `(i + 1/2) / k`.

    Args:
        distributions:
            Slot name to Optuna distribution, any kind, single-valued ones included. May be empty.

    Attributes:
        distributions: The distributions, sorted by name.
        names: Slot names, sorted; the order of every axis below.
        dim: D, the number of slots.
        is_categorical: (D,) bool.
        levels: (D,) int, the number of legal values; 0 where a slot is continuous, or so fine
            that it might as well be.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.distributions = dict(sorted(distributions.items()))
        self.names = tuple(self.distributions)
        self.dim = len(self.names)
        slots = list(self.distributions.values())
        self.is_categorical = np.array(
            [isinstance(d, CategoricalDistribution) for d in slots], bool
        )
        self.levels = np.array([_count_levels(d) for d in slots], np.int64)
        # Axis ends, in logarithms where the slot has a logarithmic scale.
        ends = np.array([_axis(d) for d in slots], np.float64).reshape(self.dim, 2)
        self._start, self._end = ends[:, 0], ends[:, 1]

    @cached_property
    def cube(self) -> Cube:
        """The space as tensors, a batch of one."""
        import torch

        from optuna_arrl.sampler.cube import Cube

        slots = list(self.distributions.values())
        columns = {
            "levels": self.levels,
            "categorical": self.is_categorical,
            "logarithmic": [getattr(d, "log", False) for d in slots],
            "integer": [
                isinstance(d, IntDistribution) and levels > 0
                for d, levels in zip(slots, self.levels, strict=True)
            ],
            "low": [float(getattr(d, "low", 0)) for d in slots],
            "start": self._start,
            "end": self._end,
            "family": [name_family(name) for name in self.names],
        }
        types = {
            **dict.fromkeys(("levels", "family"), torch.int64),
            **dict.fromkeys(("low", "start", "end"), torch.float64),
        }
        return Cube.of(
            **{
                name: torch.tensor(np.array(column), dtype=types.get(name, torch.bool))[None]
                for name, column in columns.items()
            }
        )

    def encode(self, params: Mapping[str, Any]) -> Array:
        """Return the point of a parameter assignment.

        Args:
            params: Values by name; names that are not slots are ignored.

        Returns:
            (D,) unit values; nan where a value is missing, out of range or no choice. A value
            inside the range but off its grid keeps its place: :meth:`snap` moves it.
        """
        point: Array = self.encode_all([params])[0]
        return point

    def encode_all(self, assignments: Sequence[Mapping[str, Any]]) -> Array:
        """Return the points (n, D) of n parameter assignments, each as :meth:`encode` does."""
        points = np.empty((len(assignments), self.dim))
        for j, (name, d) in enumerate(self.distributions.items()):
            values = [params.get(name, _MISSING) for params in assignments]
            points[:, j] = _encode_values(d, values, self._start[j], self._end[j])
        return points

    def decode(self, point: Array, parent: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the legal parameter assignment at, or nearest to, a point.

        A number is written with no more digits than a billionth of its range needs, so that edits
        read `0.3` and not `0.30000000000000004`.

        Args:
            point: (D,) unit values, finite.
            parent: An assignment whose own values, bit for bit, are kept in every slot where the
                point has not left it.

        Returns:
            Values of plain Python type by name, inside the bounds and on the grid.
        """
        import torch

        from optuna_arrl.sampler.cube import SAME

        origin = self.snap(self.encode(parent)[None])[0] if parent is not None else None
        indices = self.cube.indices(torch.from_numpy(point)[None, None])[0, 0].tolist()
        params: dict[str, Any] = {}
        for j, (name, d) in enumerate(self.distributions.items()):
            if origin is not None and parent is not None and abs(origin[j] - point[j]) < SAME:
                kept = parent[name]
                if d._contains(d.to_internal_repr(kept)):
                    params[name] = kept
                    continue
            index = int(indices[j]) if self.levels[j] else None
            params[name] = _decode_value(d, float(point[j]), index, self._start[j], self._end[j])
        return params

    def snap(self, points: Array) -> Array:
        """Return the legal points nearest to points (as Optuna rounds); idempotent.

        Args:
            points: (n, D), any real values; nan stays nan.

        Returns:
            (n, D) in the unit cube.
        """
        import torch

        snapped: Array = self.cube.snap(torch.from_numpy(points)[None])[0].numpy()
        return snapped

    def digest(self) -> str:
        """Return 16 hexadecimal digits that name the search space."""
        text = repr([(name, _describe(d)) for name, d in self.distributions.items()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(distribution: BaseDistribution) -> str:
    try:
        return distribution_to_json(distribution)
    except TypeError:  # choices that are no JSON, legal in memory
        return repr(distribution)


def _count_levels(distribution: BaseDistribution) -> int:
    """Return the number of legal values, 0 for a continuum and what is as good as one."""
    if distribution.single():
        return 1
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        levels = (distribution.high - distribution.low) // distribution.step + 1
        return levels if levels <= _MAX_LEVELS else 0
    assert isinstance(distribution, FloatDistribution), "Optuna has three kinds of distribution"
    if distribution.step is None:
        return 0
    steps = (distribution.high - distribution.low) / distribution.step
    return round(steps) + 1 if steps < _MAX_LEVELS else 0


def _axis(distribution: BaseDistribution) -> tuple[float, float]:
    """Return the values at 0 and 1, as logarithms on a logarithmic scale."""
    if isinstance(distribution, CategoricalDistribution) or distribution.single():
        return 0.0, 1.0
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    room = 0.5 * (distribution.step or 0.0)
    low, high = distribution.low - room, distribution.high + room
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _encode_values(
    distribution: BaseDistribution, values: Sequence[Any], start: float, end: float
) -> Array:
    """Return the unit values (n,) of one slot's values, nan where they are missing or illegal."""
    if isinstance(distribution, CategoricalDistribution):
        return np.array([_choice(distribution, value) for value in values], np.float64)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    numbers = np.array(
        [v if isinstance(v, int | float | np.integer | np.floating) else math.nan for v in values],
        np.float64,
    )
    legal = (numbers >= distribution.low) & (numbers <= distribution.high)
    if distribution.single():
        return np.where(legal, 0.5, math.nan)
    numbers = np.where(legal, numbers, math.nan)
    axis = np.log(numbers) if distribution.log else numbers
    # Halves first: a range may be wider than the largest float.
    units: Array = (0.5 * axis - 0.5 * start) / (0.5 * end - 0.5 * start)
    return units


def _choice(distribution: CategoricalDistribution, value: Any) -> float:
    if value is _MISSING:  # Optuna would look through all choices and then print them
        return math.nan
    try:
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    except ValueError:
        return math.nan


def _decode_value(
    distribution: BaseDistribution, unit: float, index: int | None, start: float, end: float
) -> Any:
    """Return a legal value; `index` is the number of its level, None in a continuum."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[index or 0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.single() or (index is None and unit <= 0.0):
        return low
    if index is None and unit >= 1.0:
        return high
    if isinstance(distribution, IntDistribution):
        if index is None:
            value = start * (1.0 - unit) + end * unit
            value = math.exp(value) if distribution.log else value
            index = round((round(value) - distribution.low) / distribution.step)
        return min(max(distribution.low + index * distribution.step, low), high)
    if index is not None:
        assert distribution.step is not None
        value, resolution = low + index * distribution.step, _RESOLUTION * distribution.step
    else:
        value = start * (1.0 - unit) + end * unit
        resolution = _RESOLUTION * (0.5 * end - 0.5 * start)
        if distribution.log:
            value = math.exp(value)
            resolution *= value
    if resolution > 0.0:
        value = round(value, math.ceil(-math.log10(resolution)))
    return float(min(max(value, low), high))
