"""Optuna's own suite for samplers, and the upstream tests that it leaves out."""

from __future__ import annotations

from collections.abc import Callable
import multiprocessing
import os
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.testing.pytest_samplers import RelativeSamplerTestCase
from optuna.testing.pytest_samplers import SingleOnlySamplerTestCase
import pytest

from optuna_arrl.sampler import ARRLSampler


class TestARRLSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    # There are no random startup trials: the suite exercises the edits from the second trial on.
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ARRLSampler(seed=0)


def all_kinds(trial: optuna.Trial) -> float:
    a = trial.suggest_float("a", 0, 9)
    b = trial.suggest_float("b", 0.1, 10, log=True)
    c = trial.suggest_float("c", 0, 9, step=3)
    d = trial.suggest_int("d", 0, 9)
    e = trial.suggest_int("e", 1, 90, log=True)
    f = trial.suggest_int("f", 0, 9, step=3)
    g = trial.suggest_categorical("g", range(10))
    return a + b + c + d + e + f + g


def params_of_a_study(sampler: BaseSampler, n_trials: int = 6) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=sampler)
    study.optimize(all_kinds, n_trials=n_trials)
    return [trial.params for trial in study.trials]


def test_reproducible() -> None:
    assert params_of_a_study(ARRLSampler(seed=1)) == params_of_a_study(ARRLSampler(seed=1))


def test_other_seed_gives_other_params() -> None:
    first, second = params_of_a_study(ARRLSampler(seed=1)), params_of_a_study(ARRLSampler(seed=2))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_reseed_rng_changes_sampling() -> None:
    reseeded = ARRLSampler(seed=1)
    reseeded.reseed_rng()
    first, second = params_of_a_study(ARRLSampler(seed=1)), params_of_a_study(reseeded)
    assert all(a != b for a, b in zip(first, second, strict=True))


def _report_params(queue: multiprocessing.Queue[list[dict[str, Any]]]) -> None:
    queue.put(params_of_a_study(ARRLSampler(seed=1)))


@pytest.mark.parametrize("hash_seed", ["0", "random"])
def test_reproducible_in_other_process(hash_seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PYTHONHASHSEED", hash_seed)
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[list[dict[str, Any]]] = context.Queue()
    process = context.Process(target=_report_params, args=(queue,))
    process.start()
    found = queue.get()
    process.join()
    assert found == params_of_a_study(ARRLSampler(seed=1))


def test_step_and_log_are_respected() -> None:
    # Optuna's suite passes a sampler that ignores both.
    study = optuna.create_study(sampler=ARRLSampler(seed=3))
    study.optimize(all_kinds, n_trials=40)
    for trial in study.trials:
        assert trial.params["c"] in (0, 3, 6, 9)
        assert trial.params["f"] in (0, 3, 6, 9)
        assert isinstance(trial.params["c"], float)
        assert isinstance(trial.params["e"], int)
    # On a logarithmic scale half of a uniform draw is below the geometric mean of the bounds.
    sampler = ARRLSampler(seed=3)
    study = optuna.create_study(sampler=sampler)
    distribution = optuna.distributions.FloatDistribution(1e-6, 1.0, log=True)
    below = 0
    for _ in range(400):
        trial_id = study._storage.create_new_trial(study._study_id)
        trial = study._storage.get_trial(trial_id)
        below += sampler.sample_independent(study, trial, "x", distribution) < 1e-3
    assert 160 < below < 240  # 4 standard deviations of a binomial(400, 1/2)
