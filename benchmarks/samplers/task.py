"""What a benchmark asks a sampler to minimise."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution


__all__ = ["Outcome", "Task"]


@dataclass(frozen=True)
class Outcome:
    """What one trial came to.

    Attributes:
        observed: What a sampler is told; :obj:`None` for a crash.
        truth: The same without noise: what a benchmark counts. :obj:`None` for a crash.
        seconds: How long the trial would have taken.
    """

    observed: float | None
    truth: float | None
    seconds: float = 1.0


@dataclass(frozen=True)
class Task:
    """A function to minimise over an Optuna search space.

    Attributes:
        name: Unique among the tasks of all suites.
        version: Of the data and libraries that its values come from: records of another version do
            not count. Whoever changes the code of a task so that its values change renames it.
        space: Parameter name → distribution.
        evaluate: (params, generator of the noise) → outcome.
        default: The configuration that every study starts from; where there is none it starts
            from one random configuration, the same for every sampler.
        failure: Value of a crash in the plain coding; :obj:`None` where nothing crashes.
        floor: Lowest value without noise, as far as it is known: regret counts from here.
    """

    name: str
    version: str
    space: Mapping[str, BaseDistribution]
    evaluate: Callable[[Mapping[str, Any], np.random.Generator], Outcome]
    default: Mapping[str, Any] | None = None
    failure: float | None = None
    floor: float | None = None
