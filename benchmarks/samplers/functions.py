"""Test functions of the BBOB suite, from `coco-experiment` (BSD-3-Clause), without noise."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import cocoex
import numpy as np
from optuna.distributions import FloatDistribution

from benchmarks.samplers.task import Outcome
from benchmarks.samplers.task import Task


__all__ = ["bbob"]


def bbob(function: int, dimension: int, instance: int) -> Task:
    """Return a function of the suite on [-5, 5]^d; its value is the distance from its minimum."""
    problem = cocoex.BareProblem("bbob", function, dimension, instance)
    lowest = problem.best_value()
    names = [f"x{i}" for i in range(dimension)]

    def evaluate(params: Mapping[str, Any], rng: np.random.Generator) -> Outcome:
        value = float(problem(np.array([params[name] for name in names]))) - lowest
        return Outcome(value, value)

    return Task(
        name=f"bbob/f{function}/d{dimension}/i{instance}",
        version=f"coco-experiment {version('coco-experiment')}",
        space={name: FloatDistribution(-5.0, 5.0) for name in names},
        evaluate=evaluate,
        floor=0.0,
    )
