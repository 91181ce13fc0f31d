"""The surrogate of the autoresearch task: what it says, and that numpy says what the trees say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.replay import DEFAULT
from benchmarks.replay import load_surrogate
from benchmarks.replay import snapped
from benchmarks.replay import SPACE
from benchmarks.replay import SURROGATE_FILE
from benchmarks.replay.floor import from_cube
from benchmarks.replay.floor import noise_free
from benchmarks.replay.forest import Forest
from benchmarks.replay.surrogate import as_rows


def test_the_default_scores_what_was_measured() -> None:
    # 44 published trials of the default configuration: mean .99174, standard deviation .0006.
    prediction = load_surrogate().predict(as_rows([DEFAULT]))
    assert prediction.ran[0]
    assert prediction.val_bpb[0] == pytest.approx(0.9917, abs=0.001)
    assert prediction.seconds[0] == pytest.approx(300, abs=1)


def test_the_best_published_trial_scores_far_below_the_default() -> None:
    # CMA-ES, seed 0 of arXiv 2603.24647: .97409, the lowest of all runs.
    best = DEFAULT | {
        "DEPTH": 7,
        "ASPECT_RATIO": 92,
        "DEVICE_BATCH_SIZE": 64,
        "TOTAL_BATCH_SIZE": 2**17,
        "EMBEDDING_LR": 1.82,
    }
    assert load_surrogate().predict(as_rows([best])).val_bpb[0] < 0.985


def test_the_largest_model_runs_out_of_memory() -> None:
    largest = DEFAULT | {"DEPTH": 24, "ASPECT_RATIO": 128, "DEVICE_BATCH_SIZE": 256}
    prediction = load_surrogate().predict(as_rows([largest]))
    assert not prediction.ran[0]
    assert prediction.seconds[0] < 120


def test_random_configurations_crash_as_often_as_in_the_study() -> None:
    # Random search crashed in 955 of 1,704 published trials (56 %).
    rows = from_cube(np.random.default_rng(0).random((2000, len(SPACE))))
    assert 1 - load_surrogate().predict(rows).ran.mean() == pytest.approx(0.56, abs=0.06)


def test_a_prediction_does_not_depend_on_its_batch() -> None:
    cube = np.random.default_rng(1).random((1500, len(SPACE)))
    together = noise_free(cube)
    alone = np.concatenate([noise_free(cube[i : i + 1]) for i in (0, 700, 1499)])
    np.testing.assert_array_equal(together[[0, 700, 1499]], alone)


def test_no_random_configuration_is_below_the_floor() -> None:
    floor = json.loads(SURROGATE_FILE.with_name("floor.json").read_text(encoding="utf-8"))
    assert floor["evaluations"] == 100_000
    assert noise_free(np.random.default_rng(2).random((3000, 14))).min() > floor["floor"]
    at_floor = load_surrogate().predict(as_rows([floor["at"]]))
    assert at_floor.ran[0]
    assert at_floor.val_bpb[0] == pytest.approx(floor["floor"], abs=2e-6)


@pytest.mark.parametrize(
    ("given", "runs"),
    [
        ({"HEAD_DIM": 90}, {"HEAD_DIM": 64}),  # 64 x sqrt(2) = 90.5
        ({"HEAD_DIM": 91}, {"HEAD_DIM": 128}),
        ({"DEVICE_BATCH_SIZE": 45}, {"DEVICE_BATCH_SIZE": 32}),
        ({"TOTAL_BATCH_SIZE": 400_000}, {"TOTAL_BATCH_SIZE": 524_288}),
        # One step of a batch of 256 sequences of 2,048 tokens is 524,288 tokens.
        (
            {"DEVICE_BATCH_SIZE": 256, "TOTAL_BATCH_SIZE": 65_536},
            {"DEVICE_BATCH_SIZE": 256, "TOTAL_BATCH_SIZE": 524_288},
        ),
    ],
)
def test_sizes_are_snapped_as_the_study_ran_them(
    given: dict[str, int], runs: dict[str, int]
) -> None:
    assert snapped(DEFAULT | given) == DEFAULT | runs


def test_what_snaps_to_the_same_scores_the_same() -> None:
    rows = as_rows([DEFAULT | {"HEAD_DIM": 120}, DEFAULT | {"HEAD_DIM": 150}, DEFAULT])
    values = load_surrogate().predict(rows).val_bpb
    assert values[0] == values[1] == values[2]


def test_noise_has_the_measured_size_in_each_band() -> None:
    # Medians of differences between repeats / sqrt(2), as published trials have them.
    noise = load_surrogate().noise
    rng = np.random.default_rng(0)
    for val_bpb, median in ((0.979, 1.2e-4), (0.995, 0.85e-4), (1.02, 4.4e-4), (1.2, 1.2e-3)):
        draws = np.array([noise.draw(val_bpb, rng) for _ in range(2000)])
        assert np.median(np.abs(draws)) == pytest.approx(median, rel=0.15)
        assert abs((draws > 0).mean() - 0.5) < 0.05


def test_numpy_trees_predict_what_the_library_predicts() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 255, (600, 5)).astype(np.uint8)
    target = np.sin(codes[:, 0] / 40) + (codes[:, 1] > 100) * codes[:, 2] / 50
    settings = {"max_iter": 30, "early_stopping": False}
    models = [
        ensemble.HistGradientBoostingRegressor(
            random_state=seed, max_features=0.5, **settings
        ).fit(codes, target)
        for seed in range(3)
    ]
    fresh = rng.integers(0, 255, (3000, 5)).astype(np.uint8)
    expected = np.mean([model.predict(fresh) for model in models], axis=0)
    np.testing.assert_allclose(Forest.from_models(models).predict(fresh), expected, atol=1e-5)

    classifier = ensemble.HistGradientBoostingClassifier(random_state=0, **settings)
    classifier.fit(codes, target > 1)
    np.testing.assert_allclose(
        Forest.from_models([classifier]).predict(fresh),
        classifier.decision_function(fresh),
        atol=1e-5,
    )


def _table(**columns: list[float]) -> Any:
    """Return published trials, of one run where nothing else is said."""
    pandas = pytest.importorskip("pandas")
    count = len(columns["val_bpb"])
    same = {name: [value] * count for name, value in DEFAULT.items()}
    run = {"method": ["TPE"] * count, "seed": [0] * count, "success": [1] * count}
    return pandas.DataFrame({**same, **run, **columns})


def test_repeats_of_one_configuration_in_one_run_measure_the_noise() -> None:
    pytest.importorskip("sklearn")
    from benchmarks.replay.fit import measured_noise

    pairs = [(0.970, 0.972), (0.984, 0.985), (0.994, 0.991), (1.02, 1.02), (1.2, 1.1)]
    table = _table(
        val_bpb=[value for pair in pairs for value in pair] + [5.0, 0.5],
        DEPTH=[1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 1, 1],
        seed=[0] * 10 + [1, 2],  # the last two are other runs' first tries: no repeats
    )
    noise = measured_noise(table, table["success"].to_numpy() == 1)
    for sizes, (first, second) in zip(noise.sizes, pairs, strict=True):
        assert sizes == pytest.approx(abs(first - second) / 2**0.5)


def test_a_published_curve_is_the_best_value_that_ran_so_far() -> None:
    pytest.importorskip("sklearn")
    from benchmarks.replay.fit import published

    values = [1.0, 0.5, *[0.99] * 58, *[0.98] * 140, *[0.995] * 100]
    ran = [1, 0, *[1] * 298]
    table = _table(val_bpb=values[::-1], trial=[*range(300)][::-1], success=ran[::-1])
    curve = published(table, "TPE")
    assert curve["runs"] == [[0.99, 0.99, 0.98, 0.98]]
    assert curve["crash share of the first 300"] == pytest.approx(1 / 300, abs=1e-4)
