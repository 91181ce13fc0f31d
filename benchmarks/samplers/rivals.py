"""The samplers that are compared, and the settings of each that a benchmark chooses from."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
import functools
import hashlib
from pathlib import Path
from typing import Any
from typing import NamedTuple
import warnings

import cmaes
import optuna
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler

from benchmarks.samplers.task import Task
import optuna_arrl
from optuna_arrl.sampler import ARRLSampler


__all__ = ["CODINGS", "CONTENDERS", "Contender", "Setting"]

# How a crash is told: the task's failure value; the worst value that ran so far; the failure value
# and a violated constraint.
CODINGS = ("failure", "worst", "failure+constraint")


class Setting(NamedTuple):
    """What may be chosen for a rival, on seeds that are not reported.

    Attributes:
        coding: One of `CODINGS`.
        sigma0: First step size of CMA-ES in the unit cube, where it starts at the default.
    """

    coding: str = "failure"
    sigma0: float | None = None

    def __str__(self) -> str:
        return self.coding if self.sigma0 is None else f"{self.coding} sigma0={self.sigma0}"

    @classmethod
    def parse(cls, text: str) -> Setting:
        coding, _, sigma0 = text.partition(" sigma0=")
        return cls(coding, float(sigma0) if sigma0 else None)


@dataclass(frozen=True)
class Contender:
    """A sampler with the settings it may be run under.

    Attributes:
        make: (space, start configuration, seed, setting) → a fresh sampler.
        version: Of what decides its choices.
        codings: Those that it can tell apart; the first is its setting where nothing crashes.
        sigmas: First step sizes to choose from.
    """

    make: Callable[[Mapping[str, BaseDistribution], Mapping[str, Any], int, Setting], BaseSampler]
    version: Callable[[], str]
    codings: tuple[str, ...] = CODINGS
    sigmas: tuple[float | None, ...] = (None,)

    def settings(self, task: Task) -> list[Setting]:
        """Return the settings to choose from on a task."""
        codings = self.codings if task.failure is not None else self.codings[:1]
        return [Setting(coding, sigma0) for sigma0 in self.sigmas for coding in codings]


def _cmaes_from_start(
    space: Mapping[str, BaseDistribution], start: Mapping[str, Any], seed: int, setting: Setting
) -> BaseSampler:
    # CMA-ES moves numbers; Optuna draws categorical parameters at random beside it.
    numbers = {
        name: start[name]
        for name, distribution in space.items()
        if not isinstance(distribution, CategoricalDistribution)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Optuna 5 deprecates x0 and sigma0
        return optuna.samplers.CmaEsSampler(
            x0=numbers, sigma0=setting.sigma0, seed=seed, warn_independent_sampling=False
        )


def _package_version() -> str:
    """Return a digest of the sources and weights that the sampler's choices come from."""
    return _digest(".py", ".safetensors")


def _sources_version() -> str:
    """Return a digest of the sources alone: what learned nothing has no weights."""
    return _digest(".py")


@functools.cache
def _digest(*suffixes: str) -> str:
    root = Path(optuna_arrl.__file__).parent
    digest = hashlib.sha256()
    for path in [root / "trajectory.py", *sorted((root / "sampler").rglob("*"))]:
        if path.suffix in suffixes and "pretraining" not in path.parts:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _optuna_version() -> str:
    return f"optuna {optuna.__version__}"


def _cmaes_version() -> str:
    return f"optuna {optuna.__version__}, cmaes {cmaes.__version__}"


# CMA-ES ignores constraints, and random search everything. ARRL takes what its objective stores.
CONTENDERS: dict[str, Contender] = {
    "arrl": Contender(
        lambda space, start, seed, setting: ARRLSampler(seed=seed),
        _package_version,
        codings=("failure+constraint",),
    ),
    "gp-local": Contender(
        lambda space, start, seed, setting: ARRLSampler(seed=seed, policy="acquisition"),
        _sources_version,
        codings=("failure+constraint",),
    ),
    "tpe": Contender(
        lambda space, start, seed, setting: optuna.samplers.TPESampler(seed=seed),
        _optuna_version,
    ),
    "tpe-univariate": Contender(
        lambda space, start, seed, setting: optuna.samplers.TPESampler(
            multivariate=False, seed=seed
        ),
        _optuna_version,
    ),
    "cmaes": Contender(
        lambda space, start, seed, setting: optuna.samplers.CmaEsSampler(
            seed=seed, warn_independent_sampling=False
        ),
        _cmaes_version,
        codings=CODINGS[:2],
    ),
    "cmaes-from-start": Contender(
        _cmaes_from_start,
        _cmaes_version,
        codings=CODINGS[:2],
        sigmas=(0.05, 0.1, 0.2),
    ),
    "gp": Contender(
        lambda space, start, seed, setting: optuna.samplers.GPSampler(
            seed=seed, warn_independent_sampling=False
        ),
        _optuna_version,
    ),
    "random": Contender(
        lambda space, start, seed, setting: optuna.samplers.RandomSampler(seed=seed),
        _optuna_version,
        codings=CODINGS[:1],
    ),
}
