"""The lowest value on the surrogate: what regret is measured from.

    python -m benchmarks.replay.floor

spends 100,000 noise-free evaluations outside the benchmark and writes `floor.json` beside this
file: random configurations first, then generations of children of the best.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution

from benchmarks.replay.surrogate import as_rows
from benchmarks.replay.surrogate import DEFAULT
from benchmarks.replay.surrogate import load_surrogate
from benchmarks.replay.surrogate import PATTERNS
from benchmarks.replay.surrogate import snap_rows
from benchmarks.replay.surrogate import SPACE
from benchmarks.replay.surrogate import SURROGATE_FILE


FLOOR_FILE = SURROGATE_FILE.with_name("floor.json")

_EVALUATIONS = 100_000
_RANDOM = 20_000
_GENERATION = 2_000
_PARENTS = 100


def main() -> None:
    surrogate = load_surrogate()
    rng = np.random.default_rng(0)
    cube = rng.random((_RANDOM, len(SPACE)))
    values = noise_free(cube)
    spent = len(cube)
    while spent < _EVALUATIONS:
        best = np.argsort(values, kind="stable")[:_PARENTS]
        cube, values = cube[best], values[best]
        # Steps shrink from a fifth of the range to a thousandth.
        step = 0.2 * 0.005 ** (spent / _EVALUATIONS)
        children = offspring(cube, step, rng)
        cube = np.concatenate([cube, children])
        values = np.concatenate([values, noise_free(children)])
        spent += len(children)
    winner = snap_rows(from_cube(cube[[np.argmin(values)]]))[0].round(6).tolist()
    record: dict[str, Any] = {
        "floor": round(float(values.min()), 6),
        "evaluations": spent,
        "default": round(float(surrogate.predict(as_rows([DEFAULT])).val_bpb[0]), 6),
        "at": dict(zip(SPACE, [*winner[:-1], PATTERNS[int(winner[-1])]], strict=True)),
    }
    FLOOR_FILE.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


def noise_free(cube: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return val_bpb (n,) of points (n, 14) in the unit cube; infinite for a crash."""
    prediction = load_surrogate().predict(from_cube(cube))
    return np.where(prediction.ran, prediction.val_bpb, np.inf)


def offspring(
    parents: NDArray[np.float64], step: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a generation of points: a parent, in half the cases crossed with another, moved."""
    shape = (_GENERATION, len(SPACE))
    # Better parents have more children.
    first, second = (len(parents) * rng.random((2, _GENERATION)) ** 2).astype(int)
    crossed = (rng.random((_GENERATION, 1)) < 0.5) & (rng.random(shape) < 0.5)
    children = np.where(crossed, parents[second], parents[first])
    moved = rng.random(shape) < 0.2
    children += np.where(moved, step * rng.standard_normal(shape), 0.0)
    redrawn = rng.random(shape) < 0.01
    return np.clip(np.where(redrawn, rng.random(shape), children), 0.0, 1.0)


def from_cube(cube: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows in the order of `SPACE` for points of the unit cube, both (n, 14)."""
    rows = np.empty_like(cube)
    for j, distribution in enumerate(SPACE.values()):
        u = cube[:, j]
        if isinstance(distribution, CategoricalDistribution):
            n = len(distribution.choices)
            rows[:, j] = np.minimum((u * n).astype(int), n - 1)
            continue
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        low, high = float(distribution.low), float(distribution.high)
        rows[:, j] = low * (high / low) ** u if distribution.log else low + (high - low) * u
        if isinstance(distribution, IntDistribution):
            rows[:, j] = np.round(rows[:, j])
    return rows


if __name__ == "__main__":
    main()
