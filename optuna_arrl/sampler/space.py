"""An Optuna search space as a unit cube: where candidates are moved and compared."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import distribution_to_json
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution


__all__ = ["Space"]

Array = NDArray[np.float64]

_ONE_HOT = math.sqrt(0.5)  # two different choices then lie at distance 1, as opposite bounds do
_RESOLUTION = 1e-9  # of a slot's range; what is finer is rounding error and not written to code
_SAME = 1e-8  # unit values nearer than this are the same value


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
        levels: (D,) int, the number of legal values; 0 where a slot is continuous.
        movable: (D,) bool, False where only one value is legal.
        size: Number of legal points, or :obj:`None` when a slot is continuous.
        feature_slots: (E,) int, the slot that each column of :meth:`features` belongs to.
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
        self.movable = self.levels != 1
        self.size = None if (self.levels == 0).any() else math.prod(self.levels.tolist())
        # Axis ends, in logarithms where the slot has a logarithmic scale.
        ends = np.array([_axis(d) for d in slots], np.float64).reshape(self.dim, 2)
        self._start, self._end = ends[:, 0], ends[:, 1]
        # The only unequal steps along an axis are those of an integer on a logarithmic scale.
        self._log_int = np.array(
            [isinstance(d, IntDistribution) and d.log and not d.single() for d in slots], bool
        )
        self._low = np.array([d.low if hasattr(d, "low") else 0 for d in slots], np.float64)
        widths = np.where(self.is_categorical, self.levels, 1) * self.movable
        self.feature_slots = np.repeat(np.arange(self.dim), widths)

    def encode(self, params: Mapping[str, Any]) -> Array:
        """Return the point of a parameter assignment.

        Args:
            params: Values by name; names that are not slots are ignored.

        Returns:
            (D,) unit values; nan where a value is missing, out of range or no choice. A value
            inside the range but off its grid keeps its place: :meth:`snap` moves it.
        """
        return np.array(
            [
                _encode_value(d, params[name], self._start[j], self._end[j])
                if name in params
                else math.nan
                for j, (name, d) in enumerate(self.distributions.items())
            ],
            np.float64,
        )

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
        origin = self.snap(self.encode(parent)) if parent is not None else None
        indices = self._indices(np.asarray(point, np.float64))
        params: dict[str, Any] = {}
        for j, (name, d) in enumerate(self.distributions.items()):
            if origin is not None and parent is not None and abs(origin[j] - point[j]) < _SAME:
                kept = parent[name]
                if d._contains(d.to_internal_repr(kept)):
                    params[name] = kept
                    continue
            params[name] = _decode_value(
                d, float(point[j]), indices[j], self._start[j], self._end[j]
            )
        return params

    def snap(self, points: Array) -> Array:
        """Return the legal points nearest to points (as Optuna rounds); idempotent.

        Args:
            points: (..., D), any real values; nan stays nan.

        Returns:
            (..., D) in the unit cube.
        """
        points = np.asarray(points, np.float64)
        return np.where(self.levels > 0, self.at(self._indices(points)), np.clip(points, 0.0, 1.0))

    def at(self, indices: Array) -> Array:
        """Return the unit values of level numbers.

        Args:
            indices: (..., D), whole numbers from 0 to `levels - 1`; slots without levels ignored.

        Returns:
            (..., D) unit values; meaningless in continuous slots.
        """
        equal = (indices + 0.5) / np.maximum(self.levels, 1)
        if not self._log_int.any():
            return equal
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithmic = (np.log(self._low + indices) - self._start) / (self._end - self._start)
        return np.where(self._log_int, logarithmic, equal)

    def neighbours(self, points: Array, direction: Array) -> Array:
        """Return, for slots with levels, the next level; at an end, the next one back.

        Args:
            points: (..., D) legal points.
            direction: (..., D), its sign says which way.

        Returns:
            (..., D) legal points; continuous and single-valued slots are left as they are.
        """
        indices = self._indices(points)
        step = np.where(direction < 0, -1.0, 1.0)
        moved = indices + step
        moved = np.where((moved < 0) | (moved >= self.levels), indices - step, moved)
        return np.where(self.levels > 1, self.at(moved), points)

    def features(self, points: Array) -> Array:
        """Return points as a surrogate sees them.

        Args:
            points: (..., D) legal points.

        Returns:
            (..., E): a movable slot's unit value, or for choices one column each, √½ in the
            chosen one. Single-valued slots have no column.
        """
        columns = [
            _ONE_HOT * (self._indices(points)[..., j : j + 1] == np.arange(self.levels[j]))
            if self.is_categorical[j]
            else points[..., j : j + 1]
            for j in np.flatnonzero(self.movable)
        ]
        return np.concatenate([np.empty((*points.shape[:-1], 0)), *columns], axis=-1)

    def keys(self, points: Array) -> list[bytes]:
        """Return one hashable key a point; equal for points that decode to the same edit.

        Args:
            points: (n, D) legal points.
        """
        rounded = np.rint(points / _SAME).astype(np.int64)
        return [row.tobytes() for row in rounded]

    def digest(self) -> str:
        """Return 16 hexadecimal digits that name the search space."""
        text = repr([(name, _describe(d)) for name, d in self.distributions.items()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _indices(self, points: Array) -> Array:
        """Return (..., D) level numbers as floats (nan stays nan); junk in continuous slots."""
        last = np.maximum(self.levels - 1, 0)
        indices = np.clip(np.floor(points * self.levels), 0, last)
        if not self._log_int.any():
            return indices
        axis = self._start + np.clip(points, 0.0, 1.0) * (self._end - self._start)
        values = np.rint(np.exp(np.where(self._log_int, axis, 0.0)))
        return np.where(self._log_int, np.clip(values - self._low, 0, last), indices)


def _describe(distribution: BaseDistribution) -> str:
    try:
        return distribution_to_json(distribution)
    except TypeError:  # choices that are no JSON, legal in memory
        return repr(distribution)


def _count_levels(distribution: BaseDistribution) -> int:
    """Return the number of legal values, 0 for a continuum."""
    if distribution.single():
        return 1
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    assert isinstance(distribution, FloatDistribution), "Optuna has three kinds of distribution"
    if distribution.step is None:
        return 0
    return round((distribution.high - distribution.low) / distribution.step) + 1


def _axis(distribution: BaseDistribution) -> tuple[float, float]:
    """Return the values at 0 and 1, as logarithms on a logarithmic scale."""
    if isinstance(distribution, CategoricalDistribution) or distribution.single():
        return 0.0, 1.0
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    room = 0.5 * (distribution.step or 0.0)
    low, high = distribution.low - room, distribution.high + room
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _encode_value(distribution: BaseDistribution, value: Any, start: float, end: float) -> float:
    if isinstance(distribution, CategoricalDistribution):
        try:
            index = distribution.to_internal_repr(value)
        except ValueError:
            return math.nan
        return (index + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(value, int | float | np.integer | np.floating):
        return math.nan
    if not distribution.low <= value <= distribution.high:
        return math.nan
    if distribution.single():
        return 0.5
    axis = math.log(value) if distribution.log else float(value)
    # Halves first: a range may be wider than the largest float.
    return float((0.5 * axis - 0.5 * start) / (0.5 * end - 0.5 * start))


def _decode_value(
    distribution: BaseDistribution, unit: float, index: float, start: float, end: float
) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(index)]
    if isinstance(distribution, IntDistribution):
        return min(distribution.low + int(index) * distribution.step, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    low, high = distribution.low, distribution.high
    if distribution.single() or (distribution.step is None and unit <= 0.0):
        return low
    if distribution.step is None and unit >= 1.0:
        return high
    if distribution.step is not None:
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
